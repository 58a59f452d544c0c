"""What the API server asks when a Pod is made, the few fields we need of it, and what we think of it."""

from typing import Any

import msgspec

Operation = dict[str, Any]  # of a JSON Patch


class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str = ""
    generate_name: str = ""
    annotations: dict[str, str] | None = None


class ReadinessGate(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    condition_type: str = ""


class PodSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    host_network: bool | None = None
    readiness_gates: tuple[ReadinessGate, ...] | None = None


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()

    @property
    def name(self) -> str:
        """Its name, or how it will begin."""
        return self.metadata.name or self.metadata.generate_name


class Request(msgspec.Struct, frozen=True, kw_only=True):
    uid: str
    namespace: str = ""
    pod: Pod | None = msgspec.field(default=None, name="object")


class Review(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An AdmissionReview of version v1, as it is asked."""

    api_version: str
    kind: str
    request: Request


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a Pod is let in: with this change, and with these words to who made it."""

    patch: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()
