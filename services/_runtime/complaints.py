"""What goes wrong with a connection or a message, told once for each time it goes wrong, with what to do about it."""

import structlog

from schemas import subjects
from schemas.codec import Malformed
from services._runtime.access import Access
from services._runtime.metrics import Metrics

log = structlog.get_logger()


class Complaints:
    """Of one connection. What is forbidden is counted each time and told once for ever."""

    def __init__(self, connection: str, access: Access, metrics: Metrics) -> None:
        self._connection = connection
        self._access = access
        self._metrics = metrics
        self._said: set[str] = set()
        self._forbidden: set[str] = set()

    def settled(self) -> None:
        """All is well again: what goes wrong next is new."""
        self._said.clear()

    def forbidden(self, text: str) -> None:
        self._metrics.permission_errors.inc()
        if text not in self._forbidden:
            self._forbidden.add(text)
            log.error("the bus does not permit this", reason=text, connection=self._connection)

    def unreachable(self, text: str) -> None:
        if not self._said:  # after a refusal it is only what follows from that
            self._said.add("unreachable")
            log.warning("the bus cannot be reached, trying on", reason=text)

    def refused(self, text: str) -> None:
        if "refused" in self._said:
            return
        self._said.add("refused")
        access = self._access
        remedy = (
            f"its token must be of the ServiceAccount nsm-{access.role}, for the audience nats.nsm, and the"
            " auth service must run: its log says more"
            if access.token_file
            else "set NSM_TOKEN_FILE, or put the server's token into NSM_NATS_URL"
        )
        log.error(
            "the bus does not let us in, trying on",
            reason=text,
            role=access.role,
            token_file=access.token_file,
            connection=self._connection,
            remedy=remedy,
        )


class MalformedMessages:
    """Of one stream: each is counted, each subject told once."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: set[str] = set()

    def note(self, exc: Malformed) -> subjects.Key | None:
        """What it would have been about, if its subject says that."""
        try:
            key: subjects.Key | None = subjects.parse(exc.subject)
        except subjects.BadSubject:
            key = None
        self._metrics.count("unknown" if key is None else key.kind, "malformed")
        if exc.subject not in self._told:
            self._told.add(exc.subject)
            log.warning("malformed message, kept what was", subject=exc.subject, reason=exc.reason)
        return key
