"""Replies over UDP that leave together: to wake a client for each one costs as much as a third of all else.

They are held while packets are read, and leave when some are there or nothing more is to be read just now.
"""

import socket
from collections.abc import Callable
from typing import Any

from services.dns.core.tally import Tally

_MOST = 64  # held


class Departures:
    """Of all Pods. Outside of `hold` and `release` a reply leaves at once."""

    __slots__ = ("_held", "_holding", "_tally")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._holding = False
        self._held: list[tuple[socket.socket, bytes, Any]] = []

    def sender(self, sock: socket.socket) -> Callable[[bytes, Any], None]:
        """What sends from this socket: a message, and where to."""
        held = self._held

        def send(message: bytes, address: Any) -> None:
            held.append((sock, message, address))
            if not self._holding or len(held) >= _MOST:
                self._send()

        return send

    def hold(self) -> None:
        self._holding = True

    def release(self) -> None:
        self._holding = False
        if self._held:
            self._send()

    def _send(self) -> None:
        for sock, message, address in self._held:
            try:
                sock.sendto(message, address)
            except OSError:
                # a client that went, or a full buffer: datagrams get lost, clients ask again
                self._tally.troubled("reply could not be sent")
        self._held.clear()
