"""What nodes say is: stream NSM_STATE. Written by the node's own agents from what the kernel told them."""

from typing import Literal

import msgspec

from schemas.grant import Connection
from schemas.subjects import NodeKey, SeenKey, StatusKey

EndState = Literal["ready", "pending", "failed"]


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
