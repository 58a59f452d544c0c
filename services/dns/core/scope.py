"""Who is asked for a name: the cluster always, a service's DNS for the names below its domains.

A service without domains is asked for every name but the cluster's own and those of reverse zones: which Pods
and Services there are is the cluster's to say, unless a service claims a part of that by name.
"""

from collections.abc import Iterator

from schemas.state import Upstream
from services.dns.core import wire
from services.dns.model import CLUSTER, Profile

_REVERSE = b"\x04arpa\0"


class Scope:
    """The upstreams of a profile, found by name."""

    def __init__(self, profile: Profile) -> None:
        self._upstreams = profile.upstreams
        self._always = 0
        self._rest = 0  # bit per upstream that takes every name
        self._below: dict[bytes, int] = {}
        self._reserved = {_REVERSE, wire.wire_name(profile.cluster_domain) or b"\0"} - {b"\0"}
        for index, upstream in enumerate(profile.upstreams):
            self._add(upstream, 1 << index)

    def _add(self, upstream: Upstream, bit: int) -> None:
        if upstream.name == CLUSTER:
            self._always |= bit
            return
        names = [wire.wire_name(domain) for domain in upstream.domains]
        for name in names:
            if name is None:  # claims nothing, instead of everything
                continue
            if name == b"\0":
                self._rest |= bit
            else:
                self._below[name] = self._below.get(name, 0) | bit
        if not names:
            self._rest |= bit

    def upstreams_for(self, name: bytes) -> tuple[Upstream, ...]:
        """Whom to ask for a name (labels, lower case), in the order of the profile."""
        return self.of(self.mask_for(name))

    def of(self, mask: int) -> tuple[Upstream, ...]:
        """The upstreams that the bits stand for."""
        return tuple(u for index, u in enumerate(self._upstreams) if mask >> index & 1)

    def covers(self, upstream: Upstream, name: bytes) -> bool:
        """Whether this upstream is asked for this name."""
        return upstream in self.upstreams_for(name)

    def mask_for(self, name: bytes) -> int:
        """A bit per upstream to ask: names are many, sets of upstreams few."""
        mask, reserved = self._always, False
        for suffix in _suffixes(name):
            mask |= self._below.get(suffix, 0)
            reserved = reserved or suffix in self._reserved
        return mask if reserved else mask | self._rest


def _suffixes(name: bytes) -> Iterator[bytes]:
    offset = 0
    while name[offset]:
        yield name[offset:]
        offset += 1 + name[offset]
