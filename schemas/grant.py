"""What ipam granted or refused: stream NSM_GRANT."""

import msgspec

from schemas.intent import Dns, PodRef, Policy, Route
from schemas.subjects import ConnectionKey, PoolKey, RefusalKey


class End(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a connection: an interface in a Pod and what it carries."""

    pod: PodRef
    interface: str
    mac: str
    addresses: tuple[str, ...] = ()  # with length, `172.16.1.2/32`, endpoint order of families
    routes: tuple[
        Route, ...
    ] = ()  # through this interface; the peer's addresses are not repeated here

    def is_on(self, node: str) -> bool:
        return self.pod.node == node


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """A granted connection, complete: a plumber needs nothing else.

    Published under the client's node and, if it differs, as a copy under the endpoint's; `node` says which.
    """

    node: str
    revision: int
    network_service: str
    network_service_namespace: str
    endpoint: str
    endpoint_namespace: str
    client: End
    server: End  # the endpoint Pod's end
    payload: str = "IP"
    mechanism: str = "veth"  # same node; "vxlan" across nodes
    vni: int = 0
    mtu: int = 1500
    policies: tuple[Policy, ...] = ()
    dns: Dns | None = None

    @property
    def key(self) -> ConnectionKey:
        return ConnectionKey(
            self.node, self.client.pod.namespace, self.client.pod.name, self.client.interface
        )


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint that was considered, and why it fell out."""

    endpoint: str
    reason: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request is not granted. `reason` is stable CamelCase, `message` names thing, reason and remedy."""

    namespace: str
    pod: str
    interface: str
    uid: str
    network_service: str
    reason: str
    message: str
    candidates: tuple[Candidate, ...] = ()

    @property
    def key(self) -> RefusalKey:
        return RefusalKey(self.namespace, self.pod, self.interface)


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of an endpoint's pool; counts of addresses, both families together."""

    namespace: str
    endpoint: str
    prefixes: tuple[str, ...]
    size: int
    used: int
    free: int

    @property
    def key(self) -> PoolKey:
        return PoolKey(self.namespace, self.endpoint)
