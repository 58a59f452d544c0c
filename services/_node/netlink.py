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

_SO_RCVTIMEO_NEW = 66  # 64 bits each, whatever the machine
# The kernel's largest datagram is 32 KiB. More than 128 KiB would be mapped and unmapped for each answer, which
# stops every thread of the process (measured: a fifth of the time of a set-up).
_MOST_BYTES = 1 << 16


class NetlinkSocket:
    """Use it as a context manager."""

    def __init__(self, opened: socket.socket) -> None:
        self._sequence = 0
        self._socket = opened
        # Not Python's time-out: it asks the kernel twice for everything.
        wait = struct.pack("=qq", TIMEOUT_SECONDS, 0)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVTIMEO_NEW, wait)
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

    def _read(self) -> bytes:
        """The next datagram. Raises TimeoutError, OSError."""
        try:
            return self._socket.recv(_MOST_BYTES)
        except BlockingIOError as exc:
            raise TimeoutError(f"no answer within {TIMEOUT_SECONDS} s") from exc

    @property
    def cookie(self) -> int:
        """Which namespace it lives in, see `netns.cookie`."""
        return netns.cookie_of(self._socket)
