"""Whom a miss waits for. A server that is silent to everything is asked as ever and may win, but holds nobody up.

Silent is not who cannot finish some names in time: it would lose, for names it does know, against whoever denies
them quickly. So after the first query without an answer it is asked something that every living server answers by
itself; only who leaves that unanswered, too, is dead. Who answers that and nothing else, for a long time, is mute.
"""

import enum

_SILENT_QUERIES = 3  # one lost packet, or a server that starts, is no silence yet
# A forwarder whose own servers are away tries names for five to seven seconds before it says SERVFAIL, and by that
# shows that it is alive.
_MUTE_SECONDS = 8.0
_LEAST_GRACE_SECONDS = 0.05
_WEIGHT = 0.125  # of the newest round trip, as TCP has it


class State(enum.StrEnum):
    """What a server is thought to be."""

    WELL = "well"
    DEAD = "dead"  # answers nothing at all
    UNREACHABLE = "unreachable"  # the kernel says so
    MUTE = "mute"  # alive, and answers no query


_WELL = State.WELL


class Health:
    """One server, as the queries of one Pod found it. `suspect`: nobody has to wait for it."""

    __slots__ = (
        *("_probe_failed", "_silent", "_silent_since", "heard_at", "srtt_seconds", "state"),
        "suspect",
    )

    def __init__(self) -> None:
        self.srtt_seconds = 0.0
        self.state = _WELL
        self.suspect = False
        self.heard_at = float("-inf")
        self._silent = 0
        self._silent_since = 0.0
        self._probe_failed = False

    @property
    def silent_queries(self) -> int:
        """How many in a row got nothing."""
        return self._silent

    @property
    def doubtful(self) -> bool:
        """A probe would tell more."""
        return self._silent > 0 or self.suspect

    def answered(self, seconds: float, now: float) -> None:
        """It answered after so long: it is well."""
        srtt = self.srtt_seconds
        self.srtt_seconds = srtt + _WEIGHT * (seconds - srtt) if srtt else seconds
        self.heard_at = now
        if self._silent or self.suspect:
            self.alive(now)

    def alive(self, now: float) -> None:
        """It said something to a client's query, be it too late for whoever asked."""
        self.heard_at = now
        self._silent = 0
        self._probe_failed = False
        self._become(_WELL)

    def unanswered(self, *, asked_at: float, now: float) -> None:
        """A query of a client got nothing from it for a second."""
        if self.heard_at >= asked_at:
            return
        if not self._silent:
            self._silent_since = asked_at
        self._silent += 1
        self._judge(now)

    def probed(self, *, answered: bool, now: float) -> None:
        """It answered a probe, or did not for a second."""
        self._probe_failed = not answered
        if answered and self.state in {State.DEAD, State.UNREACHABLE}:
            self._become(_WELL)
            self._silent = 0
        self._judge(now)

    def unreachable(self) -> None:
        """The kernel says that nobody is there."""
        self._become(State.UNREACHABLE)

    @property
    def grace_seconds(self) -> float:
        """How long after the query a miss waits for it while it is suspect."""
        return max(_LEAST_GRACE_SECONDS, 2 * self.srtt_seconds)

    def _judge(self, now: float) -> None:
        if self._silent < _SILENT_QUERIES or self.suspect:
            return
        if self._probe_failed:
            self._become(State.DEAD)
        elif now - self._silent_since >= _MUTE_SECONDS:
            self._become(State.MUTE)

    def _become(self, state: State) -> None:
        self.state = state
        self.suspect = state is not _WELL
