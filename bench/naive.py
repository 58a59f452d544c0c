"""The allocator as everyone writes it: a set of what is used, and a walk over the hosts of the prefix."""

import ipaddress
import time
from collections.abc import Iterable, Iterator

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_LOOKS_PER_CLOCK = 64


class TooSlow(Exception):
    """One decision took longer than anybody would wait; says how long it was given."""


class Naive:
    """Lowest free first, like ours; nothing of it is meant to be slow."""

    def __init__(self, prefix: Network, excluded: Iterable[Network]) -> None:
        self.prefix = prefix
        self.excluded = list(excluded)
        self.used: set[Address] = set()

    def allocate(self, *, limit_seconds: float) -> Address:
        """The lowest free address. Raises TooSlow, LookupError."""
        started = time.thread_time()
        hosts: Iterator[Address] = self.prefix.hosts()
        for number, address in enumerate(hosts):
            if number % _LOOKS_PER_CLOCK == 0 and time.thread_time() > started + limit_seconds:
                raise TooSlow(f"> {limit_seconds:.1f} s")
            if address in self.used or any(address in network for network in self.excluded):
                continue
            self.used.add(address)
            return address
        raise LookupError(f"{self.prefix} is full")

    def release(self, address: Address) -> None:
        self.used.discard(address)
