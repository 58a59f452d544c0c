"""What ipam granted or refused: stream NSM_GRANT."""

import msgspec

from schemas.intent import Dns, PodRef, Policy, Route
from schemas.subjects import ClusterKey, ConnectionKey, PoolKey, RefusalKey

TUNNEL_PORT = 14789  # UDP, of vxlan between nodes


class End(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a connection: an interface in a Pod and what it carries."""

    pod: PodRef
    interface: str
    mac: str
    addresses: tuple[str, ...] = ()  # with length, `172.16.1.2/32`, endpoint order of families
    routes: tuple[
        Route, ...
    ] = ()  # through this interface; the peer's addresses are not repeated here
    underlay: str = ""  # address of its node that tunnels end at; empty on one node

    def is_on(self, node: str) -> bool:
        return self.pod.node == node


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """What a former revision took and its successor under the same subject does not name.

    It is nobody else's until the node says the successor, or that nothing stands.
    """

    uid: str  # of the client Pod
    revision: int
    endpoint: str  # `<namespace>/<name>` of the endpoint object whose pool the addresses return to
    addresses: tuple[str, ...] = ()  # the client's
    peer_addresses: tuple[str, ...] = ()  # the endpoint Pod's, families in the same order
    vni: int = 0


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
    vni: int = 0  # of the tunnel; 0 on one node
    mtu: int = 1500
    readdressed: str = ""  # why its addresses are others than before, for people
    covered: str = ""  # what of it a prefix in use covers although it stands, for people
    held: tuple[Former, ...] = ()  # what its nodes may still have of before
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


class Collision(msgspec.Struct, frozen=True, kw_only=True):
    """A prefix or route of an endpoint that overlaps a prefix in use, and by what that is used."""

    prefix: str
    overlaps: str
    used_by: str


class Lack(msgspec.Struct, frozen=True, kw_only=True):
    """A family of which no automatic prefix is left for an endpoint: where it would be carved, and who is there."""

    family: int  # 4 or 6
    supernets: tuple[str, ...]
    taken_by: str  # `100.64.0.0/10 (Pod CIDR of node node1)`

    def __str__(self) -> str:
        return f"no automatic IPv{self.family} prefix is left of {' and '.join(self.supernets)}: {self.taken_by}"


class PoolFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One family of a pool, in addresses; `size` is the sum of the others."""

    family: int  # 4 or 6
    prefixes: tuple[str, ...]
    size: int  # all that its addressing can use
    used: int = 0  # by granted connections
    held: int = 0  # given back, but a node has not confirmed yet that it is gone
    excluded: int = 0  # in use in the cluster, or left out by the endpoint's own excludePrefixes
    free: int = 0
    largest_free: str = ""  # the largest free prefix


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Why an endpoint serves no new client although its spec is well written; `reason` is stable CamelCase."""

    reason: str
    message: str


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The pool of a NetworkServiceEndpoint object, shared by its replicas."""

    namespace: str
    endpoint: str
    families: tuple[PoolFigures, ...] = ()
    automatic: bool = False  # the endpoint names no prefix: what it has was carved for it
    collisions: tuple[Collision, ...] = ()
    lacks: tuple[Lack, ...] = ()
    trouble: Trouble | None = None

    @property
    def key(self) -> PoolKey:
        return PoolKey(self.namespace, self.endpoint)


class ClusterPrefixes(msgspec.Struct, frozen=True, kw_only=True):
    """All prefixes in use, merged: where a default route leads into a connection, these stay on the CNI."""

    prefixes: tuple[str, ...] = ()

    @property
    def key(self) -> ClusterKey:
        return ClusterKey()
