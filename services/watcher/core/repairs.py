"""What nodes say they repaired, as news: each repair once, on the Pod whose interface it was.

What was said before we began to listen, or in the snapshot of a stream, is no news.
"""

from collections.abc import Iterator

from schemas.codec import Tombstone
from schemas.intent import PodRef
from schemas.state import EndStatus, Status
from schemas.subjects import StatusKey
from services.watcher.core.news import WARNING, Announcement

REPAIRED = "InterfaceRepaired"

_Told = tuple[str, str]  # of the client's end and the endpoint's


class Repairs:
    """Remembers the last repair of each connection; `note` every status, also before anybody wants the news."""

    def __init__(self) -> None:
        self._told: dict[StatusKey, _Told] = {}

    def note(
        self, key: StatusKey, status: Status | Tombstone, *, is_news: bool
    ) -> Iterator[tuple[PodRef, Announcement]]:
        """Which Pods have to hear of what. Not `is_news`: only remembered."""
        if isinstance(status, Tombstone):
            self._told.pop(key, None)
            return
        before = self._told.get(key, ("", ""))
        ends = (status.client, status.server)
        now = tuple(end.repaired if end is not None else "" for end in ends)
        if any(now):
            self._told[key] = (now[0], now[1])
        else:
            self._told.pop(key, None)
        for end, is_server, said, was in zip(ends, (False, True), now, before, strict=True):
            pod = _pod(end, is_server=is_server)
            if is_news and pod is not None and said not in ("", was):
                what = said.partition(" ")[2]
                yield pod, Announcement(type=WARNING, reason=REPAIRED, message=what)


def _pod(end: EndStatus | None, *, is_server: bool) -> PodRef | None:
    if end is None or end.applied is None:
        return None
    return (end.applied.server if is_server else end.applied.client).pod
