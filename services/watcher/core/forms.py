"""Specs of our own kinds as people write them: every field may be left out, be `null`, or be spelled in another way.

What they mean is read in `specs`, how fields may be spelled in `fields`.
"""

from typing import Annotated, Any, Literal

import msgspec

from services.watcher.core import fields

Text = str | int  # YAML reads 6666 as a number
Texts = tuple[str, ...] | None


class Expression(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Texts = None

    def holds(self, labels: dict[str, str]) -> bool:
        given, listed = labels.get(self.key), self.values or ()
        match self.operator:
            case "In":
                return given is not None and given in listed
            case "NotIn":
                return given is None or given not in listed
            case "Exists":
                return given is not None
            case "DoesNotExist":
                return given is None


class Selector(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Kubernetes' label selector; the empty one selects everything."""

    match_labels: dict[str, str] | None = None
    match_expressions: tuple[Expression, ...] | None = None

    def selects(self, labels: dict[str, str]) -> bool:
        wanted = self.match_labels or {}
        return all(labels.get(key) == value for key, value in wanted.items()) and all(
            each.holds(labels) for each in self.match_expressions or ()
        )


class Ipam(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    prefixes: Texts = None
    exclude_prefixes: Texts = None
    addressing: str | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    destination: str
    next_hop: str | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    source: str | None = None
    protocol: str | None = None
    destination_port: Text | None = None
    source_port: Text | None = None
    routes: tuple[Route, ...] | None = None


class Dns(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    servers: Texts = None
    domains: Texts = None
    search_domains: Texts = None


class ServiceLabels(msgspec.Struct, frozen=True, kw_only=True):
    labels: dict[str, str] | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    network_services: Texts = None
    labels: dict[str, str] | None = None
    network_service_labels: dict[str, ServiceLabels] | None = None
    pod_selector: Selector | None = None
    ipam: Ipam | None = None
    routes: tuple[Route, ...] | None = None
    policies: tuple[Policy, ...] | None = None
    dns: Dns | None = None


class Destination(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    destination_selector: dict[str, str] | None = None
    weight: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Match(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    source_selector: dict[str, str] | None = None
    routes: tuple[Destination, ...] | None = None
    fallthrough: bool | None = None


class NetworkService(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    payload: str | None = None
    matches: tuple[Match, ...] | None = None
    allowed_namespaces: Texts = None


# Of the anchor's registry; `metadata` chooses among its forwarders.
_PASSED_OVER: dict[type[Any], set[str]] = {
    Endpoint: {"name", "url", "expirationTime", "initialRegistrationTime", "pathIds"},
    NetworkService: {"name", "pathIds"},
    Match: {"metadata"},
}
ENDPOINTS = fields.Reader(Endpoint, kind="networkserviceendpoint", passed_over=_PASSED_OVER)
NETWORK_SERVICES = fields.Reader(NetworkService, kind="networkservice", passed_over=_PASSED_OVER)
