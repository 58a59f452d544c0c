"""What nodes and former leaders left behind: what a node says it has, who released what, who confirmed it.

Outlives terms, because mirrors keep no tombstones and the next term has to hold what is not confirmed.
"""

from collections.abc import Collection, Iterator
from typing import Any

import msgspec
import structlog

from schemas import state, subjects
from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.subjects import ConnectionKey, RequestKey, StatusKey

TOMBSTONES = 100_000  # the newest ones; on the bus they live an hour

log = structlog.get_logger()


class Past:
    """Follows grants and statuses, whoever leads."""

    def __init__(self) -> None:
        self._released: dict[subjects.Key, Tombstone] = {}
        self._confirmed: dict[subjects.Key, Tombstone] = {}
        self._applied: dict[RequestKey, dict[str, Connection]] = {}  # by node

    def note_grant(self, key: ConnectionKey, message: Any) -> None:
        if isinstance(message, Tombstone) and message.released:
            _note(self._released, key, message, most=TOMBSTONES)
        else:
            self._released.pop(key, None)

    def note_status(self, key: StatusKey, message: Any) -> None:
        request = RequestKey(key.namespace, key.pod, key.interface)
        nodes = self._applied.setdefault(request, {})
        nodes.pop(key.node, None)
        if isinstance(message, Tombstone):
            # More than releases: some are confirmed before the release is known, and none may be forgotten first.
            _note(self._confirmed, key, message, most=2 * TOMBSTONES)
        else:
            self._confirmed.pop(key, None)
            if (applied := applied_of(key, message)) is not None:
                nodes[key.node] = applied
        if not nodes:
            del self._applied[request]

    def released(self) -> Iterator[tuple[ConnectionKey, Tombstone, bool]]:
        """What was given back, and whether its node confirmed that it is gone."""
        for key, tombstone in list(self._released.items()):
            assert isinstance(key, ConnectionKey)
            confirmed = self._confirmed.get(_status_key(key))
            yield key, tombstone, confirmed is not None and _is_about(confirmed, tombstone)

    def confirmed(self) -> Iterator[tuple[StatusKey, Tombstone]]:
        """What nodes said last of what is gone there."""
        for key, tombstone in list(self._confirmed.items()):
            assert isinstance(key, StatusKey)
            yield key, tombstone

    def plumbed(self, request: RequestKey) -> Collection[str]:
        """Nodes that say they have (something of) a request."""
        return self._applied.get(request, {}).keys()

    def reported(self, request: RequestKey) -> Connection | None:
        """The newest that any node says it has of a request, as its client's node was granted it."""
        applied = self._applied.get(request, {}).values()
        return max(applied, key=lambda connection: connection.revision, default=None)


def applied_of(key: StatusKey, message: Any) -> Connection | None:
    """The grant that a node says it applied, at whichever end, if it is about this very connection."""
    if not isinstance(message, state.Status):
        return None
    own = ConnectionKey(key.node, key.namespace, key.pod, key.interface)
    found = [
        end.applied
        for end in (message.client, message.server)
        if end is not None and end.applied is not None and end.applied.key == own
    ]
    newest = max(found, key=lambda connection: connection.revision, default=None)
    if newest is None or key.node not in (newest.client.pod.node, newest.server.pod.node):
        return None
    return msgspec.structs.replace(newest, node=newest.client.pod.node)


def _is_about(confirmed: Tombstone, released: Tombstone) -> bool:
    """A Pod of the same name may have had higher numbers, before anybody counted as we do."""
    is_other = confirmed.released and confirmed.released != released.released
    return confirmed.revision >= released.revision and not is_other


def _note(
    tombstones: dict[subjects.Key, Tombstone],
    key: subjects.Key,
    tombstone: Tombstone,
    *,
    most: int,
) -> None:
    tombstones.pop(key, None)
    tombstones[key] = tombstone
    if len(tombstones) > most:
        del tombstones[next(iter(tombstones))]


def _status_key(key: ConnectionKey) -> StatusKey:
    return StatusKey(key.node, key.namespace, key.pod, key.interface)
