"""Other addresses of endpoints, as news: on the endpoint Pod, and on a client whose own address stayed as it was.

A client whose own addresses changed hears it with its status (`report`). What was said before we began to listen,
or in the snapshot of a stream, is no news.
"""

from collections.abc import Iterator

import msgspec

from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.intent import PodRef
from schemas.state import Status
from schemas.subjects import StatusKey
from services.watcher.core.news import READDRESSED, WARNING, Announcement


class _Stood(msgspec.Struct, frozen=True):
    server_uid: str
    client: tuple[str, ...]
    server: tuple[str, ...]


class Moves:
    """Remembers the addresses that stand; `note` every status, also before anybody wants the news."""

    def __init__(self) -> None:
        self._stood: dict[StatusKey, _Stood] = {}

    def note(
        self, key: StatusKey, status: Status | Tombstone, *, is_news: bool
    ) -> Iterator[tuple[PodRef, Announcement]]:
        """Which Pods have to hear of what. Not `is_news`: only remembered."""
        if isinstance(status, Tombstone):
            self._stood.pop(key, None)
            return
        applied = _applied(status)
        if applied is None:
            return
        before = self._stood.get(key)
        now = _Stood(applied.server.pod.uid, applied.client.addresses, applied.server.addresses)
        self._stood[key] = now
        is_move = before is not None and before.server_uid == now.server_uid
        if not is_news or not is_move or before is None or before.server == now.server:
            return
        if not applied.readdressed:
            return
        change = f"{_listed(now.server)} now instead of {_listed(before.server)}"
        if status.server is not None:
            # In the same words for all its clients: many links of a shared address are one piece of news.
            endpoint = f"{applied.endpoint_namespace}/{applied.endpoint}"
            yield applied.server.pod, _news(f"this Pod has {change} as endpoint {endpoint}")
        if status.client is not None and before.client == now.client:
            where = f"{applied.client.interface} leads to {change}"
            yield applied.client.pod, _news(f"{where}: {applied.readdressed}")


def _applied(status: Status) -> Connection | None:
    for end in (status.server, status.client):
        if end is not None and end.applied is not None and end.state == "ready":
            return end.applied
    return None


def _news(message: str) -> Announcement:
    return Announcement(type=WARNING, reason=READDRESSED, message=message)


def _listed(addresses: tuple[str, ...]) -> str:
    return ", ".join(each.partition("/")[0] for each in addresses)
