"""Single addresses in use that no known prefix covers: of Pods where no Pod CIDR is told, of Services likewise.

They are told in blocks of 256 addresses, a message each: a cluster of 100,000 Pods on a network that keeps its
prefixes to itself makes hundreds of messages, and a Pod that comes or goes changes one. In a block neighbours are
merged. What a change costs depends on what it touches, never on how much there is.
"""

import ipaddress
from collections.abc import Hashable, Iterable, Iterator

from schemas import values
from schemas.intent import PrefixesInUse, UsedPrefix
from schemas.subjects import PrefixKey
from services.watcher.core import prefixes
from services.watcher.model import Ref

_BITS = 8  # of a block
_WIDTH = {4: 32, 6: 128}

Block = tuple[int, int]  # (family, what its addresses share)
Covering = tuple[int, int, int]  # (family, first address, length)


class Addresses:
    """`put` what an object uses and `know` what is told anyway; `gather` the messages that differ since then.

    `source` is that of the messages, `kind` what people call such an object.
    """

    def __init__(self, source: str, kind: str) -> None:
        self._source = source
        self._kind = kind
        self._blocks: dict[Block, dict[int, tuple[Ref, ...]]] = {}
        self._known: dict[Hashable, frozenset[Covering]] = {}
        self._covering: dict[tuple[int, int], dict[int, int]] = {}  # (family, length): how often
        self._changed: set[Block] = set()

    def put(self, ref: Ref, before: Iterable[str], after: Iterable[str]) -> set[PrefixKey]:
        """An object uses other addresses now; the keys whose messages that may change."""
        old, new = set(_parsed(before)), set(_parsed(after))
        touched = {(family, address >> _BITS) for family, address in old ^ new}
        for family, address in old - new:
            block = self._blocks[family, address >> _BITS]
            users = tuple(each for each in block.pop(address) if each != ref)
            if users:  # a balancer's address may serve several
                block[address] = users
            elif not block:
                del self._blocks[family, address >> _BITS]
        for family, address in new - old:
            block = self._blocks.setdefault((family, address >> _BITS), {})
            block[address] = tuple(sorted({*block.get(address, ()), ref}))
        return self._touch(touched)

    def know(self, owner: Hashable, told: Iterable[UsedPrefix]) -> set[PrefixKey]:
        """These prefixes are told under another key; nothing: they are not any more."""
        now = frozenset(map(_covering, told))
        before = self._known.pop(owner, frozenset())
        if now:
            self._known[owner] = now
        for each in before - now:
            self._cover(each, -1)
        for each in now - before:
            self._cover(each, +1)
        return self._touch(block for each in now ^ before for block in self._inside(each))

    def gather(self) -> dict[PrefixKey, PrefixesInUse | None]:
        """Messages that may have changed since they were gathered last; None: there is none now."""
        changed, self._changed = self._changed, set()
        return {self._key(block): self._message(block) for block in changed}

    def _touch(self, blocks: Iterable[Block]) -> set[PrefixKey]:
        touched = set(blocks)
        self._changed |= touched
        return set(map(self._key, touched))

    def _cover(self, covering: Covering, by: int) -> None:
        family, first, length = covering
        counts = self._covering.setdefault((family, length), {})
        counts[first] = counts.get(first, 0) + by
        if not counts[first]:
            del counts[first]
        if not counts:
            del self._covering[family, length]

    def _inside(self, covering: Covering) -> Iterator[Block]:
        """Blocks with addresses that this may cover."""
        family, first, length = covering
        width = _WIDTH[family]
        begin = first >> _BITS
        count = max(1, 1 << width - _BITS - length) if length < width - _BITS else 1
        if count <= len(self._blocks):
            yield from (
                (family, at) for at in range(begin, begin + count) if (family, at) in self._blocks
            )
        else:
            yield from (
                (f, at) for f, at in self._blocks if f == family and begin <= at < begin + count
            )

    def _is_covered(self, family: int, address: int) -> bool:
        width = _WIDTH[family]
        return any(
            address >> width - length << width - length in counts
            for (covered, length), counts in self._covering.items()
            if covered == family
        )

    def _message(self, block: Block) -> PrefixesInUse | None:
        family = block[0]
        used = [
            UsedPrefix(prefix=_text(family, address), used_by=self._users(users))
            for address, users in sorted(self._blocks.get(block, {}).items())
            if not self._is_covered(family, address)
        ]
        if not used:
            return None
        key = self._key(block)
        told = tuple(prefixes.minimal(used, self._together))
        return PrefixesInUse(source=key.source, name=key.optional_name, prefixes=told)

    def _users(self, users: tuple[Ref, ...]) -> str:
        more = f" and {len(users) - 1} more" if len(users) > 1 else ""
        return f"{self._kind} {'/'.join(users[0])}{more}"

    def _together(self, used: list[UsedPrefix]) -> str:
        return f"{len(used)} {self._kind}s, such as {used[0].used_by.partition(' ')[2]}"

    def _key(self, block: Block) -> PrefixKey:
        family, shared = block
        first = shared << _BITS
        if family == 4:
            name = str(ipaddress.IPv4Address(first)).replace(".", "-")
        else:
            name = ipaddress.IPv6Address(first).exploded.replace(":", "-")
        return PrefixKey(self._source, name)


def _parsed(texts: Iterable[str]) -> Iterator[tuple[int, int]]:
    for text in texts:
        try:
            found = ipaddress.ip_address(text)
        except ValueError:  # Kubernetes checked it; what is none cannot collide
            continue
        yield found.version, int(found)


def _covering(told: UsedPrefix) -> Covering:
    found = values.parse_prefix_loosely(told.prefix)
    return found.version, int(found.network_address), found.prefixlen


def _text(family: int, address: int) -> str:
    if family == 4:
        return f"{ipaddress.IPv4Address(address)}/32"
    return f"{ipaddress.IPv6Address(address)}/128"
