"""What is remembered of each connection's grants: who had them, and which is the newest that is gone.

ipam frees addresses by our word, so the word must name the newest revision that ended, from whatever still
remembers it: the release itself, what was applied, what was granted, what this node said last.
"""

from collections.abc import Mapping
from typing import Any

from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.state import Status
from schemas.subjects import ConnectionKey, StatusKey
from services.plumber.model import Applied


class Past:
    """`said` are this node's statuses on the bus, `held` what is applied; both are only read."""

    def __init__(self, said: Mapping[Any, Any], held: Mapping[ConnectionKey, Applied]) -> None:
        self.released: dict[ConnectionKey, Tombstone] = {}
        self._said = said
        self._held = held
        self._last: dict[ConnectionKey, Connection] = {}
        self._buried: dict[ConnectionKey, tuple[str, int]] = {}
        self._replaced: dict[ConnectionKey, Connection] = {}  # of a former Pod of the same name

    def note(self, key: ConnectionKey, message: Connection | Tombstone) -> None:
        """What the bus says of a grant now."""
        if isinstance(message, Tombstone):
            self.released[key] = message
            return
        self.released.pop(key, None)
        last = self._last.get(key)
        if last is not None and last.client.pod.uid != message.client.pod.uid:
            self._replaced[key] = last
        self._last[key] = message

    def newest(self, key: ConnectionKey) -> tuple[str, int] | None:
        """Uid of the client and revision of the newest grant of a connection; None if nobody remembers one."""
        found = self._applied(key)
        if (released := self.released.get(key)) is not None:
            found.append((released.revision, released.released))
        if (last := self._last.get(key)) is not None:
            found.append((last.revision, last.client.pod.uid))
        if isinstance(said := self._said.get(reported_as(key)), Status):
            found.append((said.revision, said.client.uid if said.client else ""))
        return _newest(found)

    def former(self, key: ConnectionKey, grant: Connection) -> tuple[str, int] | None:
        """The same for a Pod of the same name that had the connection before the one of `grant`."""
        own = grant.client.pod.uid
        found: list[tuple[int, str]] = []
        if (replaced := self._replaced.get(key)) is not None:
            found.append((replaced.revision, replaced.client.pod.uid))
        held = self._held.get(key)
        said = self._said.get(reported_as(key))
        if (
            isinstance(said, Status)
            and said.client is not None
            and (held is None or held.grant.client.pod.uid != own)  # else it is an echo from before
        ):
            found.append((said.revision, said.client.uid))
        found = [each for each in found if each[0] < grant.revision] + self._applied(key)
        former = _newest([each for each in found if each[1] != own])
        return None if former == self._buried.get(key) else former

    def bury_former(self, key: ConnectionKey, former: tuple[str, int]) -> None:
        """Nothing of it stands any more, and that is told: once is enough."""
        replaced = self._replaced.get(key)
        if replaced is not None and replaced.revision <= former[1]:
            del self._replaced[key]  # else another one came meanwhile
        self._buried[key] = former

    def forget(self, key: ConnectionKey) -> None:
        """The connection is over."""
        self._last.pop(key, None)
        self._replaced.pop(key, None)
        self._buried.pop(key, None)
        self.released.pop(key, None)

    def _applied(self, key: ConnectionKey) -> list[tuple[int, str]]:
        held = self._held.get(key)
        return [] if held is None else [(held.grant.revision, held.grant.client.pod.uid)]


def reported_as(key: ConnectionKey) -> StatusKey:
    """Under which subject the state of a grant is told."""
    return StatusKey(key.node, key.namespace, key.pod, key.interface)


def granted_as(key: StatusKey) -> ConnectionKey:
    return ConnectionKey(key.node, key.namespace, key.pod, key.interface)


def _newest(found: list[tuple[int, str]]) -> tuple[str, int] | None:
    if not found:
        return None
    revision, uid = max(found)
    return uid, revision
