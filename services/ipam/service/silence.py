"""Tunnels whose other end answers no more: their clients move to somebody else, if somebody is heard.

Not at once, for a tunnel that comes back within a moment is not worth a move; nor back when it does. New clients
avoid a silent path for a while: nobody is left on it who could tell that it is well again.
"""

import asyncio

from schemas import state
from schemas.grant import Connection
from schemas.reasons import PEER_SILENT
from schemas.subjects import RequestKey, StatusKey
from services.ipam.core.state import State
from services.ipam.service.agenda import Agenda

PATIENCE_SECONDS = 1.0
AVOIDED_SECONDS = 300.0

Path = tuple[str, str]  # nodes of client and endpoint


class Silence:
    """`note` every status; what it says takes effect by itself. `close` at the end of a term."""

    def __init__(self, state: State, agenda: Agenda) -> None:
        self._state = state
        self._agenda = agenda
        self._due: dict[RequestKey, tuple[int, asyncio.TimerHandle]] = {}
        self._avoided: dict[Path, asyncio.TimerHandle] = {}

    def note(self, key: StatusKey, message: object) -> None:
        """What a node says of a connection; its word on the client's end counts."""
        request = RequestKey(key.namespace, key.pod, key.interface)
        granted = self._state.grants.get(request)
        if granted is not None and granted.client.pod.node != key.node:
            return
        end = message.client if isinstance(message, state.Status) else None
        if granted is None or end is None or not _is_about(end, granted):
            self._forget(request)
        elif end.state == "ready":
            self._forget(request)
            self._avoid(_path(granted), is_silent=False)
        elif end.reason == PEER_SILENT:
            self._avoid(_path(granted), is_silent=True)
            self._wait(request, granted.revision)
        else:
            self._forget(request)

    def close(self) -> None:
        for timer in [*self._avoided.values(), *(timer for _, timer in self._due.values())]:
            timer.cancel()

    def _wait(self, request: RequestKey, revision: int) -> None:
        if request in self._due and self._due[request][0] == revision:
            return
        self._forget(request)
        loop = asyncio.get_running_loop()
        self._due[request] = revision, loop.call_later(PATIENCE_SECONDS, self._lose, request)

    def _lose(self, request: RequestKey) -> None:
        revision, _ = self._due.pop(request)
        granted = self._state.grants.get(request)
        if granted is not None and granted.revision == revision:
            self._state.paths.lost.add(request)
            self._agenda.hurry([request])

    def _forget(self, request: RequestKey) -> None:
        self._state.paths.lost.discard(request)
        if request in self._due:
            self._due.pop(request)[1].cancel()

    def _avoid(self, path: Path, *, is_silent: bool) -> None:
        if (timer := self._avoided.pop(path, None)) is not None:
            timer.cancel()
        self._state.paths.put(*path, is_silent=is_silent)
        if is_silent:
            loop = asyncio.get_running_loop()
            self._avoided[path] = loop.call_later(AVOIDED_SECONDS, self._stop_avoiding, path)

    def _stop_avoiding(self, path: Path) -> None:
        self._avoid(path, is_silent=False)


def _is_about(end: state.EndStatus, granted: Connection) -> bool:
    """Whether this is said of a tunnel to the endpoint Pod that is granted."""
    applied = end.applied
    return (
        bool(granted.vni)
        and applied is not None
        and applied.revision == granted.revision
        and applied.server.pod.uid == granted.server.pod.uid
    )


def _path(granted: Connection) -> Path:
    return granted.client.pod.node, granted.server.pod.node
