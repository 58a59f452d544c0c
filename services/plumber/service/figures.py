"""Figures of this node: what it carries, and what it keeps open.

Traffic is summed per network service: a label per Pod would be a time series per Pod. `explain` has each
connection's own. Counted as often as somebody looks: at each change and each sweep.
"""

import os
from collections import Counter as Tally
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.grant import Connection
from schemas.subjects import ConnectionKey
from services.plumber.model import Pair, Traffic

_DESCRIPTORS = "/proc/self/fd"
_KINDS = ("netns", "socket", "other")


class Figures:
    """Registers all figures; asks for nothing by itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._seen: dict[ConnectionKey, tuple[int, Traffic]] = {}  # ifindex: a new link counts anew
        labels = ["network_service", "direction"]
        self._bytes = Counter(
            "nsm_plumber_bytes",
            "Bytes through connections of this node's clients, as the clients see them",
            labels,
            registry=registry,
        )
        self._packets = Counter(
            "nsm_plumber_packets", "Packets, in the same way", labels, registry=registry
        )
        self.connections = Gauge(
            "nsm_plumber_connections",
            "Connections that stand on this node as granted",
            registry=registry,
        )
        self.watched = Gauge(
            "nsm_plumber_watched_netns", "Networks of Pods that are watched", registry=registry
        )
        descriptors = Gauge(
            "nsm_plumber_open_descriptors",
            "Open descriptors; a `netns` that stays keeps a dead Pod's network alive",
            ["kind"],
            registry=registry,
        )
        for kind in _KINDS:
            descriptors.labels(kind).set_function(partial(_open, kind))

    def carried(self, grant: Connection, pair: Pair, *, is_new: bool) -> None:
        """What its links have carried up to now. Of a link that stood at our start only what comes counts."""
        end = pair.client
        if end is None:
            return  # the client's node counts it
        index, before = self._seen.get(grant.key, (end.index, Traffic() if is_new else end.traffic))
        self._seen[grant.key] = end.index, end.traffic
        if index != end.index:
            before = Traffic()
        name = f"{grant.network_service_namespace}/{grant.network_service}"
        for direction, counter, position in (
            ("received", self._bytes, 0),
            ("sent", self._bytes, 1),
            ("received", self._packets, 2),
            ("sent", self._packets, 3),
        ):
            counter.labels(name, direction).inc(max(0, end.traffic[position] - before[position]))

    def forget(self, key: ConnectionKey) -> None:
        self._seen.pop(key, None)


def open_descriptors() -> Tally[str]:
    """What this process keeps open, by kind."""
    found: Tally[str] = Tally()
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 numbers
        try:
            target = os.readlink(f"{_DESCRIPTORS}/{name}")  # noqa: PTH115 no path
        except OSError:
            continue  # that of the listing itself
        kind = target.partition(":")[0]
        found["netns" if kind == "net" else kind if kind == "socket" else "other"] += 1
    return found


def _open(kind: str) -> int:
    return open_descriptors()[kind]
