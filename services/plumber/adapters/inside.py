"""What is needed inside a Pod's network beside netlink, opened by one throw-away thread and used from any.

The settings of IPv6 are files that only a thread in the network finds; once their directory is open, everybody who
has it does.
"""

import contextlib
import os
import socket
from types import TracebackType
from typing import Self

from services._node import probe
from services.plumber.adapters.errors import Refused
from services.plumber.model import End


class Inside:
    """Ways into a network, once `open` was called there. Use it as a context manager.

    `sysctls` is a /proc/sys/net that may be written. A socket for a probe is opened if there is a list to put it
    into, which somebody else closes.
    """

    def __init__(self, sysctls: str, *, probes: list[socket.socket] | None = None) -> None:
        self._conf = f"{sysctls}/ipv6/conf"
        self._probes = probes
        self._probe: socket.socket | None = None
        self._settings: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._settings is not None:
            os.close(self._settings)

    def open(self) -> None:
        """By the thread that is in the network. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):  # no IPv6 in this kernel
            self._settings = os.open(self._conf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if self._probes is not None:
            self._probe = probe.open_socket()
            self._probes.append(self._probe)

    def side(self, end: End) -> probe.Side:
        """Of a probe."""
        assert self._probe is not None, "it was not opened for that"
        return probe.Side(self._probe, end.interface, end.mac)

    def settle_ipv6(self, end: End) -> None:
        """No router speaks to our links, and IPv6 is on where it was granted. Raises Refused."""
        if any(":" in address for address in end.addresses):
            try:
                self._write(f"{end.interface}/disable_ipv6", b"0")
            except FileNotFoundError as exc:
                raise Refused(
                    f"{end.interface}: an IPv6 address was granted, but IPv6 is off here: switch it on in the "
                    "kernel and let the MTU be 1280 at least, or give the endpoint an IPv4 prefix"
                ) from exc
        # else IPv6 is off in the kernel, or the MTU is below its least
        with contextlib.suppress(FileNotFoundError):
            self._write(f"{end.interface}/accept_ra", b"0")

    def _write(self, name: str, value: bytes) -> None:
        if self._settings is None:
            raise FileNotFoundError(name)
        opened = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._settings)
        try:
            os.write(opened, value)
        finally:
            os.close(opened)
