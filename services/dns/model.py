"""What dns thinks in: who may be asked for a Pod's queries, and how much one Pod may cost. Never crosses the bus."""

import msgspec

from schemas.state import Upstream

CLUSTER = "cluster"  # name of the upstream that is asked for every name


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers a Pod. The upstream named `cluster` is asked always, the others within their domains."""

    upstreams: tuple[Upstream, ...]
    cluster_domain: str = "cluster.local"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one Pod may hold at a time: whoever asks more is not served, and harms nobody else."""

    in_flight: int = 2048  # queries, per transport
    cached: int = 0  # answers
    waiters: int = 256  # clients' packets that wait for the same query
    tcp_connections: int = 64  # of clients
    tcp_pipelined: int = 64  # queries of one connection; more are read when some are answered
    tcp_asking: int = 32  # connections to upstreams
    tcp_unread_bytes: int = 1 << 18  # answers that a client does not take off its connection
    tcp_idle_seconds: float = 10.0
