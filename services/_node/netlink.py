"""What all netlink sockets share: each lives in one namespace, does not wait for ever, and is closed in the end."""

import socket
import struct
from types import TracebackType
from typing import Self

from services._node import netns

HEADER = struct.Struct("=IHHII")
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
SOL_NETLINK, CAP_ACK = 270, 10
TIMEOUT_SECONDS = 10  # a removal waits for RCU, and many may wait for the same lock


class NetlinkSocket:
    """Use it as a context manager."""

    def __init__(self, opened: socket.socket) -> None:
        self._sequence = 0
        self._socket = opened
        self._socket.settimeout(TIMEOUT_SECONDS)
        self._socket.setsockopt(SOL_NETLINK, CAP_ACK, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """It holds its namespace until then."""
        self._socket.close()

    @property
    def cookie(self) -> int:
        """Which namespace it lives in, see `netns.cookie`."""
        return netns.cookie_of(self._socket)
