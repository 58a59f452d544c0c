"""Whom a miss waits for. A server that has been silent to everything is asked as ever and may win, but holds nobody up.

Silent is who answered nothing at all over a time in which it was asked. A server that only cannot finish some
names in time is none: it would lose, for names it does know, against whoever denies them quickly.
"""

_SILENT_QUERIES = 3  # one lost packet, or a server that starts, is no silence yet
# Nor is a burst of queries for names that take long: a forwarder whose own servers are away tries them for five to
# seven seconds before it says SERVFAIL, and by that shows that it is alive.
_SILENT_SECONDS = 8.0
_LEAST_GRACE_SECONDS = 0.05
_WEIGHT = 0.125  # of the newest round trip, as TCP has it


class Health:
    """One server, as the queries of one Pod found it."""

    __slots__ = ("_heard_at", "_silent", "_silent_since", "srtt_seconds", "suspect")

    def __init__(self) -> None:
        self.srtt_seconds = 0.0
        self.suspect = False
        self._silent = 0
        self._silent_since = 0.0
        self._heard_at = float("-inf")

    def answered(self, seconds: float, *, now: float) -> None:
        """It answered after so long: it is well."""
        if self.srtt_seconds:
            self.srtt_seconds += _WEIGHT * (seconds - self.srtt_seconds)
        else:
            self.srtt_seconds = seconds
        self.alive(now)

    def alive(self, now: float) -> None:
        """It said something, be it too late for whoever asked."""
        self._heard_at = now
        self._silent = 0
        self.suspect = False

    def unanswered(self, *, asked_at: float, now: float) -> None:
        """A query of a client got nothing from it for a second."""
        if self._heard_at >= asked_at:
            return
        if not self._silent:
            self._silent_since = asked_at
        self._silent += 1
        long = now - self._silent_since >= _SILENT_SECONDS
        self.suspect = self.suspect or (long and self._silent >= _SILENT_QUERIES)

    def unreachable(self) -> None:
        """The kernel says that nobody is there."""
        self.suspect = True

    @property
    def grace_seconds(self) -> float:
        """How long after the query a miss waits for it while it is suspect."""
        return max(_LEAST_GRACE_SECONDS, 2 * self.srtt_seconds)
