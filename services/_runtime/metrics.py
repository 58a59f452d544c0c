"""Few figures, named nsm_<noun>. Labels are kinds and streams, never names of Pods or addresses."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """The figures of one process. Services register their own in `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[tuple[str, str], Counter] = {}
        self.messages = Counter(
            "nsm_messages",
            "Messages of the bus by kind and what became of them",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.permission_errors = Counter(
            "nsm_permission_errors", "What the bus did not permit", registry=self.registry
        )
        self.reconnects = Counter(
            "nsm_reconnects", "Connections to the bus made again", registry=self.registry
        )
        self.leader = Gauge(
            "nsm_leader", "1 while this process leads", ["service"], registry=self.registry
        )
        self.mirror_synced = Gauge(
            "nsm_mirror_synced", "1 while a mirror is synced", ["stream"], registry=self.registry
        )
        self.mirror_items = Gauge(
            "nsm_mirror_items", "Items in a mirror", ["stream"], registry=self.registry
        )
        self.mirror_stale = Gauge(
            "nsm_mirror_stale",
            "Items kept although absent, as their writer is not complete",
            ["stream"],
            registry=self.registry,
        )
        self.mirror_lag = Gauge(
            "nsm_mirror_lag",
            "Messages on their way to a mirror",
            ["stream"],
            registry=self.registry,
        )

    def count(self, kind: str, outcome: str) -> None:
        """One message of this kind ended this way."""
        child = self._counters.get((kind, outcome))
        if child is None:  # `labels` takes a lock, and this runs for every message
            child = self._counters[kind, outcome] = self.messages.labels(kind, outcome)
        child.inc()
