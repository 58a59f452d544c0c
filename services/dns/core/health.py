"""Whom a miss waits for. A server that has been silent lately is asked as ever and may win, but holds nobody up."""

_SILENT_QUERIES = 3  # one lost packet, or a server that starts, is no silence yet
_LEAST_GRACE_SECONDS = 0.05
_WEIGHT = 0.125  # of the newest round trip, as TCP has it


class Health:
    """One server, as the queries of one Pod found it."""

    __slots__ = ("_silent", "srtt_seconds", "suspect")

    def __init__(self) -> None:
        self.srtt_seconds = 0.0
        self.suspect = False
        self._silent = 0

    def answered(self, seconds: float) -> None:
        """It answered after so long: it is well."""
        if self.srtt_seconds:
            self.srtt_seconds += _WEIGHT * (seconds - self.srtt_seconds)
        else:
            self.srtt_seconds = seconds
        self._silent = 0
        self.suspect = False

    def unanswered(self) -> None:
        """A query of a client got nothing from it for a second."""
        self._silent += 1
        self.suspect = self.suspect or self._silent >= _SILENT_QUERIES

    def unreachable(self) -> None:
        """The kernel says that nobody is there."""
        self.suspect = True

    @property
    def grace_seconds(self) -> float:
        """How long after the query a miss waits for it while it is suspect."""
        return max(_LEAST_GRACE_SECONDS, 2 * self.srtt_seconds)
