"""Queries that leave together: while packets are read they gather at each server, and are sent when a few were read."""

from collections import deque
from typing import Protocol


class Sender(Protocol):
    """A server for which queries wait."""

    def send_waiting(self) -> None: ...


class Outbox:
    """Of all Pods. Outside of `hold` and `release` a query leaves at once."""

    __slots__ = ("_holding", "_senders")

    def __init__(self) -> None:
        self._holding = False
        self._senders: deque[Sender] = deque()

    def add(self, sender: Sender) -> None:
        """It has queries that wait, and had none before."""
        if self._holding:
            self._senders.append(sender)
        else:
            sender.send_waiting()

    def hold(self) -> None:
        self._holding = True

    def release(self) -> None:
        self._holding = False
        while self._senders:
            self._senders.popleft().send_waiting()
