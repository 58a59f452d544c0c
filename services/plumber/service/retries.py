"""Connections that could not be made as granted: looked at again, ever later, and at once when it may help.

What stands in the way is mostly another connection of the same Pods that is about to go.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import NamedTuple

from schemas.subjects import ConnectionKey

FIRST_SECONDS = 0.2
MOST_SECONDS = 10.0


class _Failure(NamedTuple):
    uids: frozenset[str]
    reason: str
    delay_seconds: float
    timer: asyncio.TimerHandle


class Retries:
    """The failed keys, each with its Pods and its next time. `again` is told a key to look at."""

    def __init__(self, again: Callable[[ConnectionKey], None]) -> None:
        self._again = again
        self._failures: dict[ConnectionKey, _Failure] = {}

    def failed(self, key: ConnectionKey, uids: Collection[str], reason: str) -> bool:
        """Try it later. Whether the reason is news."""
        before = self._failures.get(key)
        delay_seconds = FIRST_SECONDS
        if before is not None:
            before.timer.cancel()
            delay_seconds = min(before.delay_seconds * 2, MOST_SECONDS)
        timer = asyncio.get_running_loop().call_later(delay_seconds, self._again, key)
        self._failures[key] = _Failure(frozenset(uids), reason, delay_seconds, timer)
        return before is None or before.reason != reason

    def reason(self, key: ConnectionKey) -> str:
        """Why the last try failed, and when the next one is; empty: there is none to come."""
        failure = self._failures.get(key)
        if failure is None:
            return ""
        seconds = max(0.0, failure.timer.when() - asyncio.get_running_loop().time())
        return f"{failure.reason} (tried again in {seconds:.1f} s)"

    def settled(self, key: ConnectionKey) -> None:
        """It needs no further try."""
        failure = self._failures.pop(key, None)
        if failure is not None:
            failure.timer.cancel()

    def stir(self, by: ConnectionKey, uids: Collection[str]) -> None:
        """`by` changed something in the networks of these Pods: what failed there may work now."""
        for key, failure in self._failures.items():
            if key != by and not failure.uids.isdisjoint(uids):
                self._again(key)

    def close(self) -> None:
        for key in list(self._failures):
            self.settled(key)
