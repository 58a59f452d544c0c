"""What the resolvers of a node did, in figures: kinds only, never names of Pods, servers or questions."""

from prometheus_client import CollectorRegistry, Counter


class Figures:
    """Counters with their children at hand: finding one by label takes a lock, and this runs for every packet."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queries = Counter(
            "nsm_dns_queries",
            "Queries of Pods by transport and by what they got",
            ["transport", "outcome"],
            registry=registry,
        )
        self._answers = Counter(
            "nsm_dns_answers",
            "Answers of upstreams (cluster, service) by what they said",
            ["upstream", "rank"],
            registry=registry,
        )
        self._trouble = Counter(
            "nsm_dns_trouble",
            "Packets dropped, sockets that failed, limits met",
            ["what"],
            registry=registry,
        )
        self._children: dict[tuple[str, str], Counter] = {}

    def query(self, transport: str, outcome: str) -> None:
        """One query of a client came to its end."""
        child = self._children.get((transport, outcome))
        if child is None:
            child = self._children[transport, outcome] = self._queries.labels(transport, outcome)
        child.inc()

    def answer(self, upstream: str, rank: str) -> None:
        """One answer of an upstream was accepted."""
        child = self._children.get((upstream, rank))
        if child is None:
            child = self._children[upstream, rank] = self._answers.labels(upstream, rank)
        child.inc()

    def trouble(self, what: str) -> None:
        """Something that should be rare."""
        child = self._children.get(("", what))
        if child is None:
            child = self._children["", what] = self._trouble.labels(what)
        child.inc()
