"""An API server on a bad day: what shall go wrong, with which requests, how often.

Tests say `api.faults.add(Fault(...))`; people POST the same as JSON to /misbehave of a lab's API server, GET tells
what is still to come, DELETE ends all of it. Nothing goes wrong by itself, and no object is harmed: what a list
says once the faults are over is what was written. `restore` alone takes back what was written, as backups do.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from lab.api.errors import ApiError, bad_request

Verb = Literal["", "list", "page", "watch", "get", "write"]  # page: a list that goes on
What = Literal[
    "refuse", "hang", "drop", "slow",  # of a request
    "stale",  # of a list
    "mute", "end", "error",  # of a watch, right after its headers
    "cut", "duplicate", "swap", "lose", "ghost",  # of the next event of a watch
    "unmarked",  # of the next bookmark
    "cut-all", "compact", "restore", "jump", "rotate",  # at once
]  # fmt: skip
_REQUESTS = frozenset({"refuse", "hang", "drop", "slow"})
_WATCHES = frozenset({"mute", "end", "error"})
_EVENTS = frozenset({"cut", "duplicate", "swap", "lose", "ghost"})

_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that goes wrong.

    refuse     answer with `code`, and Retry-After if `seconds` says so
    hang       no answer, not even headers, for `seconds` (0: until all faults end)
    drop       the connection is closed without an answer
    slow       an answer only after `seconds`
    stale      a list of `back` versions ago
    mute       a watch says nothing after its headers, not even a bookmark
    end        a watch ends at once
    error      a watch's first and last event is an ERROR of `code`
    cut        half of the line, and the connection is closed
    duplicate  the event comes twice;  swap: after the one that follows;  lose: not at all
    ghost      DELETED of an object nobody heard of comes first
    unmarked   no bookmark
    cut-all    all connections are closed now
    compact    the past is forgotten now: whoever is behind gets 410
    restore    everything is as it was `back` versions ago, the version too
    jump       the clock goes `seconds` forward (or back)
    rotate     from now on only `token` is let in (empty: whoever asks)
    """

    what: What
    kind: str = ""  # plural; empty: any
    verb: Verb = ""
    times: int = 1  # 0: until it is taken back
    lasts: float = 0.0  # seconds after which it ends anyway; 0: never
    code: int = 500
    seconds: float = 0.0
    back: int = 1
    token: str = ""

    @property
    def error(self) -> ApiError:
        reason = _REASONS.get(self.code, "InternalError")
        details = {"retryAfterSeconds": int(self.seconds)} if self.seconds else {}
        return ApiError(self.code, reason, "the server misbehaves as told", details=details)


class _Standing:
    """A fault that is still to come."""

    def __init__(self, fault: Fault, *, now: float) -> None:
        self.fault = fault
        self.left = fault.times or -1
        self.ends = now + fault.lasts if fault.lasts else float("inf")


class Faults:
    """What is still to go wrong, oldest first."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._standing: list[_Standing] = []
        self.over = asyncio.Event()  # set and renewed whenever all faults end

    def add(self, *faults: Fault) -> None:
        now = self._clock()
        self._standing += [_Standing(fault, now=now) for fault in faults]

    def clear(self) -> None:
        """From now on all is well; what hangs goes on."""
        self._standing.clear()
        self.over.set()
        self.over = asyncio.Event()

    @property
    def any(self) -> bool:
        return bool(self._standing)

    async def pause(self, fault: Fault) -> None:
        """As long as `fault` says, but not longer than faults last."""
        try:
            async with asyncio.timeout(fault.seconds or None):
                await self.over.wait()
        except TimeoutError:
            pass

    @property
    def to_come(self) -> list[Fault]:
        now = self._clock()
        return [
            msgspec.structs.replace(each.fault, times=max(each.left, 0))
            for each in self._standing
            if now < each.ends
        ]

    def of_request(self, kind: str, verb: Verb) -> Fault | None:
        return self._take(_REQUESTS, kind, verb)

    def of_list(self, kind: str) -> Fault | None:
        return self._take({"stale"}, kind, "list")

    def of_watch(self, kind: str) -> Fault | None:
        return self._take(_WATCHES, kind, "watch")

    def of_event(self, kind: str) -> Fault | None:
        return self._take(_EVENTS, kind, "watch")

    def of_bookmark(self, kind: str) -> Fault | None:
        return self._take({"unmarked"}, kind, "watch")

    def _take(self, whats: Iterable[str], kind: str, verb: Verb) -> Fault | None:
        if not self._standing:
            return None
        now = self._clock()
        self._standing = [each for each in self._standing if now < each.ends]
        for each in self._standing:
            fault = each.fault
            if fault.what in whats and fault.kind in ("", kind) and fault.verb in ("", verb):
                each.left -= 1
                if not each.left:
                    self._standing.remove(each)
                return fault
        return None


class Cut(Exception):
    """The connection ends here, after these bytes."""

    def __init__(self, last: bytes) -> None:
        super().__init__()
        self.last = last


class Spoiler:
    """The lines of one watch, as they reach its reader. Raises Cut."""

    def __init__(self, faults: Faults, kind: str) -> None:
        self._faults = faults
        self._kind = kind
        self._held = b""

    def events(self, lines: list[bytes]) -> bytes:
        told: list[bytes] = []
        for line in lines:
            told += self._event(line, told)
        return b"".join(told)

    def bookmark(self, line: bytes) -> bytes:
        return b"" if self._faults.of_bookmark(self._kind) else line

    def _event(self, line: bytes, before: list[bytes]) -> list[bytes]:
        held, self._held = self._held, b""
        after = [held] if held else []
        fault = self._faults.of_event(self._kind)
        match fault.what if fault else "":
            case "cut":
                raise Cut(b"".join([*before, line[: len(line) // 2]]))
            case "duplicate":
                return [line, *after, line]
            case "swap":
                self._held = line
                return after
            case "lose":
                return after
            case "ghost":
                return [_ghost(line), line, *after]
        return [line, *after]


class _Line(msgspec.Struct):
    type: str
    object: dict[str, object]


def _ghost(line: bytes) -> bytes:
    """As if another object, of which nobody heard, had gone just before."""
    event = msgspec.json.decode(line, type=_Line)
    metadata = event.object.get("metadata")
    if isinstance(metadata, dict):
        event.object["metadata"] = metadata | {"name": "ghost", "uid": "ghost"}
    event.type = "DELETED"
    return msgspec.json.encode(event) + b"\n"


def read(data: bytes) -> Fault:
    """A fault as people write it. Raises ApiError (BadRequest)."""
    try:
        return msgspec.json.decode(data, type=Fault)
    except msgspec.DecodeError as exc:
        raise bad_request(f"that is no fault: {exc}") from exc
