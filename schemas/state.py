"""What nodes say is: stream NSM_STATE. Written by the node's own agents from what the kernel told them."""

from typing import Literal

import msgspec

from schemas.grant import Connection
from schemas.subjects import NodeKey, ResolverKey, SeenKey, StatusKey

EndState = Literal["ready", "pending", "failed"]
ResolverState = Literal["serving", "pending", "failed"]


class EndStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One local end of a connection as the kernel has it. `applied` is the whole grant it was made from."""

    uid: str
    state: EndState
    reason: str = ""  # stable CamelCase unless ready
    message: str = ""
    interface: str = ""
    ifindex: int = 0
    mac: str = ""
    addresses: tuple[str, ...] = ()
    applied: Connection | None = None  # None: nothing of ours stands
    repaired: str = (
        ""  # the last repair of it under this grant: when (RFC 3339), a blank, what was wrong
    )


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """State of a connection on one node: a section per end that lives there."""

    node: str
    namespace: str
    pod: str
    interface: str
    revision: int  # of the newest grant this answers
    client: EndStatus | None = None
    server: EndStatus | None = None

    @property
    def key(self) -> StatusKey:
        return StatusKey(self.node, self.namespace, self.pod, self.interface)


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a node. `complete`: all its statuses are in the stream of `incarnation`."""

    node: str
    underlay_address: str = ""
    mtu: int = 1500
    mechanisms: tuple[str, ...] = ()
    kernel: str = ""
    version: str = ""
    complete: bool = False
    incarnation: str = ""

    @property
    def key(self) -> NodeKey:
        return NodeKey(self.node)


class SeenPrefixes(msgspec.Struct, frozen=True, kw_only=True):
    """Prefixes that a node is directly connected to: new grants keep clear of them."""

    node: str
    prefixes: tuple[str, ...] = ()

    @property
    def key(self) -> SeenKey:
        return SeenKey(self.node)


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """DNS servers that a resolver asks for names below `domains`; no domains: every name."""

    name: str  # `cluster`, or `<namespace>/<network service>`
    servers: tuple[str, ...]
    domains: tuple[str, ...] = ()
    search_domains: tuple[str, ...] = ()  # of `cluster`: the Pod's own search list
    interface: str = ""  # of the connection that gives it; empty: the cluster's
    revision: int = 0  # of that connection's grant


class Resolver(msgspec.Struct, frozen=True, kw_only=True):
    """What a Pod's queries are answered by, and whether its port 53 is captured for that."""

    node: str
    namespace: str
    pod: str
    uid: str
    state: ResolverState
    reason: str = ""  # stable CamelCase unless serving
    message: str = ""
    mode: str = ""  # `owned`: the kernel ends the capture with our process; `timed`: after seconds
    upstreams: tuple[Upstream, ...] = ()

    @property
    def key(self) -> ResolverKey:
        return ResolverKey(self.node, self.namespace, self.pod)
