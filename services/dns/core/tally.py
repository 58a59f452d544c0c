"""What the resolvers of a node did, counted where it happens: plain numbers, for this runs for every packet.

Kinds only, never names of Pods, servers or questions.
"""

from bisect import bisect_left

from services.dns.core.ranking import Rank

OUTCOMES = (*(rank.name.lower() for rank in Rank), "searched", "cached")
SEARCHED, CACHED = len(Rank), len(Rank) + 1
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Tally:
    """Read by whoever exports it."""

    def __init__(self) -> None:
        self.datagrams = [0] * len(OUTCOMES)  # queries over UDP that were answered, by outcome
        self.streams = [0] * len(OUTCOMES)  # over TCP
        self.answers: dict[str, list[int]] = {}  # of upstreams of a kind, by rank
        self.trouble: dict[str, int] = {}
        self.seconds = [0] * (len(SECONDS) + 1)  # queries by how long they took
        self.seconds_sum = 0.0

    def answers_of(self, kind: str) -> list[int]:
        """The counts of one kind of upstreams, to count on."""
        return self.answers.setdefault(kind, [0] * len(Rank))

    def troubled(self, what: str) -> None:
        """Something that should be rare."""
        self.trouble[what] = self.trouble.get(what, 0) + 1

    def took(self, seconds: float, clients: int) -> None:
        """Clients were answered after so long."""
        self.seconds[bisect_left(SECONDS, seconds)] += clients
        self.seconds_sum += seconds * clients
