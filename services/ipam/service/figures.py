"""What ipam did, in figures: sums only, never names of Pods, pools or addresses."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.grant import Pool

_BUCKETS = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 1e-1)
_STATES = ("used", "held", "excluded", "free")


class Figures:
    """One process's figures; gauges are those of the leader, zero on a standby."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.granted = Counter(
            "nsm_ipam_granted", "Connections granted, changes included", registry=registry
        )
        self.released = Counter("nsm_ipam_released", "Connections taken back", registry=registry)
        self.refused = Counter(
            "nsm_ipam_refused", "Requests refused by reason", ["reason"], registry=registry
        )
        self.readdressed = Counter(
            "nsm_ipam_readdressed",
            "Connections given other addresses, as a prefix in use swallowed theirs",
            registry=registry,
        )
        self.mistakes = Counter(
            "nsm_ipam_mistakes",
            "Requests that could not be settled by our fault",
            registry=registry,
        )
        self.connections = Gauge(
            "nsm_ipam_connections", "Connections that are granted", registry=registry
        )
        self.waiting = Gauge("nsm_ipam_waiting", "Requests not granted", registry=registry)
        self.unaddressable = Gauge(
            "nsm_ipam_unaddressable",
            "Connections that overlap a prefix in use and have no replacement",
            registry=registry,
        )
        self.silent_nodes = Gauge(
            "nsm_ipam_silent_nodes",
            "Nodes that have not told what they have since the bus was lost",
            registry=registry,
        )
        self.addresses = Gauge(
            "nsm_ipam_addresses",
            "Addresses of all pools by what became of them",
            ["family", "state"],
            registry=registry,
        )
        self.decision_seconds = Histogram(
            "nsm_ipam_decision_seconds",
            "Time to settle one request, without the bus",
            buckets=_BUCKETS,
            registry=registry,
        )

    def sum_up(self, pools: Iterable[Pool]) -> None:
        """Addresses of all pools."""
        sums = {(family, state): 0 for family in (4, 6) for state in _STATES}
        for pool in pools:
            for figures in pool.families:
                for state in _STATES:
                    sums[figures.family, state] += getattr(figures, state)
        for (family, state), number in sums.items():
            self.addresses.labels(str(family), state).set(number)

    def stand_by(self) -> None:
        """Nothing is ours to count any more."""
        for gauge in (self.connections, self.waiting, self.unaddressable, self.silent_nodes):
            gauge.set(0)
        self.sum_up(())
