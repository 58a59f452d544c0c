"""What Kubernetes wants, as the watcher tells it: stream NSM_INTENT."""

import msgspec

from schemas.subjects import EndpointKey, LeaderKey, NetworkServiceKey, PrefixKey, RequestKey


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A route through a connection. `destination` is a prefix; without `next_hop` the peer is the next hop."""

    destination: str
    next_hop: str = ""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy route of an endpoint: what matches is looked up in a table holding `routes`."""

    source: str = ""  # prefix
    protocol: str = ""
    destination_port: str = ""  # "6666" or "6667-6670"
    source_port: str = ""
    routes: tuple[Route, ...] = ()


class Dns(msgspec.Struct, frozen=True, kw_only=True):
    """DNS that an endpoint provides. No servers: the connection's endpoint address. No domains: every name."""

    servers: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    search_domains: tuple[str, ...] = ()


class PodRef(msgspec.Struct, frozen=True, kw_only=True):
    """A Pod, and what its node needs to find it."""

    namespace: str
    name: str
    uid: str
    node: str
    cgroup_uid: str = ""  # differs from uid for static Pods
    ips: tuple[str, ...] = ()
    node_ready: bool = True
    dns_policy: str = "ClusterFirst"  # as Kubernetes has it
    nameservers: tuple[str, ...] = ()  # of its dnsConfig
    searches: tuple[str, ...] = ()  # of its dnsConfig


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A Pod wants a network service. Stands as long as the Pod and its annotation do."""

    pod: PodRef
    interface: str
    network_service: str  # as written
    network_service_namespace: str = ""  # as written; empty: resolved by ipam
    labels: dict[str, str] = {}  # of the annotation
    mechanism: str = "kernel"
    dns: bool = True  # False: the Pod wants no DNS of network services

    @property
    def key(self) -> RequestKey:
        return RequestKey(self.pod.namespace, self.pod.name, self.interface)


class IpamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where an endpoint's addresses come from."""

    prefixes: tuple[str, ...] = ()
    exclude_prefixes: tuple[str, ...] = ()
    addressing: str = "shared"  # or "pointToPoint"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A Pod offers network services: one replica of a NetworkServiceEndpoint object."""

    endpoint: str
    pod: PodRef
    ready: bool  # may get new connections; what it has it keeps
    leaving: bool = False  # being deleted: serves until it ends, and its clients move to another one if there is one
    refused: str = (
        ""  # why the object's newer spec is refused while this older one holds, for people
    )
    network_services: tuple[str, ...]
    labels: dict[str, str] = {}
    ipam: IpamSpec = IpamSpec()
    routes: tuple[Route, ...] = ()
    policies: tuple[Policy, ...] = ()
    dns: Dns | None = None

    @property
    def key(self) -> EndpointKey:
        return EndpointKey(self.pod.namespace, self.endpoint, self.pod.name)

    @property
    def edited_in_vain(self) -> tuple[str, ...]:
        """What an explanation says of a refused edit: a line, or none."""
        told = f"its newer spec is refused, the older one holds: {self.refused}"
        return (told,) if self.refused else ()


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """A set of endpoints by label, with its share."""

    destination_selector: dict[str, str] = {}
    weight: int = 1


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A rule: clients whose labels contain `source_selector` go to one of `routes`."""

    source_selector: dict[str, str] = {}
    routes: tuple[Destination, ...] = ()
    fallthrough: bool = False


class NetworkService(msgspec.Struct, frozen=True, kw_only=True):
    """Rules of a network service. Optional: without one every endpoint of that name is a candidate."""

    namespace: str
    name: str
    payload: str = "IP"  # or "ETHERNET"
    matches: tuple[Match, ...] = ()
    allowed_namespaces: tuple[str, ...] = ()  # patterns such as team-*; its own is always allowed

    @property
    def key(self) -> NetworkServiceKey:
        return NetworkServiceKey(self.namespace, self.name)


class UsedPrefix(msgspec.Struct, frozen=True, kw_only=True):
    """A prefix in use, and by what, in words for people: `Pod CIDR of node node1`."""

    prefix: str
    used_by: str


class PrefixesInUse(msgspec.Struct, frozen=True, kw_only=True):
    """Prefixes of one source (`node`, `pod`, `service`, `cluster`, `user`) that no connection may touch."""

    source: str
    name: str = ""
    prefixes: tuple[UsedPrefix, ...] = ()

    @property
    def key(self) -> PrefixKey:
        return PrefixKey(self.source, self.name)


class Leader(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes a stream. Its sequence guards every write; `complete` allows readers to judge by absence.

    `incarnations` maps a stream to its creation time: a reader that remembers another one lost its place.
    """

    service: str
    holder: str
    connection: str = ""  # of the process: two that were given one holder name are still told apart
    incarnations: dict[str, str]
    complete: bool = False
    silent: tuple[str, ...] | None = None  # nodes whose connections absence does not count for yet
    since: str = ""  # RFC 3339: when this term began, for people
    asked_again: str = (
        ""  # RFC 3339: when nodes were last asked to tell anew what they have, for it was lost
    )

    @property
    def key(self) -> LeaderKey:
        return LeaderKey(self.service)
