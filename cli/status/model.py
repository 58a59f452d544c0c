"""What `nsm status` says: the state of everything, and what is wrong with it. Values only."""

import msgspec

from cli.status.survey import Stream
from schemas.live import Mistake


class Wrong(msgspec.Struct, frozen=True):
    """One thing that is wrong, and what to do."""

    what: str
    remedy: str


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """A service that leads: watcher, ipam. Ages in seconds; None: not known."""

    name: str
    replicas: int | None
    leader: str = ""
    leads_since: float | None = None  # Unix seconds
    heartbeat_age: float | None = None
    complete: bool | None = None
    pending: int | None = None
    versions: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()  # what its leader sees and an operator should mend
    mistakes: tuple[Mistake, ...] = ()  # what an operator should correct
    notes: tuple[str, ...] = ()  # what it sees and is good to know


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """A node: its two services, and its ends of connections."""

    name: str
    plumber: str  # alive, hangs (the bus holds its connection), silent, none
    dns: str  # alive, gone, ?
    heartbeat_age: float | None = None
    clients: int = 0  # connections of clients here
    endpoints: int = 0  # of endpoint Pods here
    not_ready: int = 0  # ends here that are not
    captured: int = 0  # Pods whose queries dns answers
    mtu: int = 0
    mechanisms: tuple[str, ...] = ()
    kernel: str = ""
    versions: tuple[str, ...] = ()


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests by what has become of them; by reason where they are not connected."""

    requests: int = 0
    connected: int = 0
    waiting: dict[str, int] = {}
    refused: dict[str, int] = {}
    failed: dict[str, int] = {}
    pools: int = 0
    pools_full: int = 0
    pools_colliding: int = 0


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How far anybody is behind. Seconds; None: nothing waits."""

    pending: int | None = None  # messages that some follower has not got yet
    unanswered: int = 0  # requests that ipam has not answered
    oldest_unanswered: float | None = None
    unwired: int = 0  # grants that the node has not made
    oldest_unwired: float | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. It is well if nothing is wrong."""

    well: bool
    wrong: tuple[Wrong, ...]
    noted: tuple[Wrong, ...] = ()  # what users have to mend: the mesh is well
    at: float = 0.0  # Unix seconds, by the server's clock
    url: str = ""
    server: str = ""
    role: str = ""
    login_seconds: float | None = None
    versions: dict[str, int] = {}  # of all processes
    services: tuple[ServiceState, ...] = ()
    nodes: tuple[NodeState, ...] = ()
    streams: tuple[Stream, ...] = ()
    counts: Counts | None = None
    lag: Lag | None = None
