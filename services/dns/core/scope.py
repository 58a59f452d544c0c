"""Who is asked for a name: the cluster always, a service's DNS for the names below its domains.

A service without domains is asked for every name but the cluster's own and those of reverse zones: which Pods
and Services there are is the cluster's to say, unless a service claims a part of that by name.
"""

import weakref

import msgspec

from schemas.state import Upstream
from services.dns.core import wire
from services.dns.model import CLUSTER, Profile

_REVERSE = b"\x04arpa\0"
_RESERVED = 1  # beside the bits of upstreams: who takes every name does not take these


class Scope:
    """The upstreams of a profile, found by name."""

    def __init__(self, profile: Profile) -> None:
        self._upstreams = tuple(_as_scoped(upstream) for upstream in profile.upstreams)
        self._always = 0
        self._rest = 0  # bit per upstream that takes every name
        self._below: dict[bytes, int] = {}
        for name in {_REVERSE, wire.wire_name(profile.cluster_domain) or b"\0"} - {b"\0"}:
            self._below[name] = _RESERVED
        for index, upstream in enumerate(profile.upstreams):
            self._add(upstream, _RESERVED << 1 << index)

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
        return _as_scoped(upstream) in self.upstreams_for(name)

    def mask_for(self, name: bytes) -> int:
        """A bit per upstream to ask: names are many, sets of upstreams few."""
        mask, rest = self._always, self._rest
        below, offset = self._below, 0
        while length := name[offset]:
            bits = below.get(name[offset:])
            if bits is not None:
                mask |= bits
                if bits & _RESERVED:
                    rest = 0
            offset += 1 + length
        return (mask | rest) >> 1

    def why(self, upstream: Upstream, name: bytes) -> str:
        """Why an upstream is asked for a name, or not; in words."""
        if upstream.name == CLUSTER:
            return "the cluster's DNS is asked for every name"
        suffixes = _suffixes(name)
        for domain in upstream.domains:
            if wire.wire_name(domain) in suffixes:
                return f"the name is {domain}, or below it"
        if upstream.domains and "." not in upstream.domains:
            return f"the name is not below {', '.join(upstream.domains)}"
        if any(self._below.get(suffix, 0) & _RESERVED for suffix in suffixes):
            return "names of the cluster and reverse zones are the cluster's, unless a domain claims them"
        return "it names no domain: it is asked for every name outside the cluster's"


def _suffixes(name: bytes) -> list[bytes]:
    found, offset = [], 0
    while length := name[offset]:
        found.append(name[offset:])
        offset += 1 + length
    return found


def _as_scoped(upstream: Upstream) -> Upstream:
    """But for what decides nothing here, and differs from Pod to Pod."""
    return msgspec.structs.replace(upstream, search_domains=(), revision=0)


class Scopes:
    """One scope for all Pods that ask the same servers: what was found for a name holds for all of them."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[Profile, Scope] = weakref.WeakValueDictionary()

    def of(self, profile: Profile) -> Scope:
        key = Profile(
            upstreams=tuple(_as_scoped(upstream) for upstream in profile.upstreams),
            cluster_domain=profile.cluster_domain,
        )
        scope = self._known.get(key)
        if scope is None:
            scope = self._known[key] = Scope(key)
        return scope
