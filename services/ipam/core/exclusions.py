"""Prefixes in use that no connection may touch, each with who says so.

*Hard* ones are the cluster's, its nodes', kube services' and the user's. *Soft* ones were only seen on nodes:
new grants keep clear of them, what stands is left alone. Changing one costs what overlaps it.
"""

from collections.abc import Iterable, Iterator

import msgspec

from schemas.values import Prefix
from services.ipam.core.blocks import Block, Host, blocks_of, last_of, of_prefix, show
from services.ipam.core.ranges import Range, Ranges
from services.ipam.core.table import Table


class Use(msgspec.Struct, frozen=True):
    """A prefix in use, and by what."""

    prefix: Prefix
    by: str

    def __str__(self) -> str:
        return f"{self.prefix} ({self.by})"


class Change(msgspec.Struct):
    """What replacing the uses of a source did: blocks that are now used by it, and that are not any more."""

    added: list[Block] = []
    removed: list[Block] = []


Source = tuple[str, bool]  # its name, whether it is hard


class Exclusions:
    """All prefixes in use. Empty at first."""

    def __init__(self) -> None:
        self._uses: dict[Source, frozenset[Use]] = {}
        self._hard: Table[tuple[Source, str], Use] = Table()
        self._soft: Table[tuple[Source, str], Use] = Table()

    @property
    def dropped(self) -> int:
        """How many prefixes are not in use any more, so far."""
        return self._hard.dropped + self._soft.dropped

    def put(self, source: str, uses: Iterable[Use], *, is_hard: bool) -> Change:
        """Replace all that one source says."""
        key = (source, is_hard)
        before, after = self._uses.get(key, frozenset()), frozenset(uses)
        if after:
            self._uses[key] = after
        else:
            self._uses.pop(key, None)
        table, change = self._hard if is_hard else self._soft, Change()
        for use in before - after:
            block = of_prefix(use.prefix)
            table.drop(block, (key, use.by))
            change.removed.append(block)
        for use in after - before:
            block = of_prefix(use.prefix)
            table.put(block, (key, use.by), use)
            change.added.append(block)
        return change

    def has(self, family: int, number: int) -> bool:
        return self.of_number(family, number) is not None

    def of_number(self, family: int, number: int) -> Use | None:
        """Who uses this number."""
        for table in (self._hard, self._soft):
            for _, _, use in table.covering(family, number):
                return use
        return None

    def overlapping(self, block: Block) -> Use | None:
        """Who uses a part of this block, the widest part first; one of them."""
        for table in (self._hard, self._soft):
            for _, _, use in table.overlapping(block):
                return use
        return None

    def hard(self, block: Block) -> Iterator[Use]:
        """Hard uses that overlap a block, the widest first."""
        for _, _, use in self._hard.overlapping(block):
            yield use

    def hard_of_host(self, host: Host) -> Use | None:
        for _, _, use in self._hard.covering(*host):
            return use
        return None

    def clear_of(self, block: Block) -> list[Range]:
        """The parts of a block that nothing uses."""
        rest = Ranges([(block[1], last_of(block))])
        for table in (self._hard, self._soft):
            for other, _, _ in table.overlapping(block):
                rest.remove(other[1], last_of(other))
        return list(rest)

    def merged(self) -> tuple[str, ...]:
        """All hard ones as the fewest prefixes, IPv4 first."""
        return tuple(
            show(block)
            for family in (4, 6)
            for first, last in self._stretches(family)
            for block in blocks_of(family, first, last)
        )

    def _stretches(self, family: int) -> list[Range]:
        stretches: list[Range] = []
        for block in self._hard:
            if block[0] != family:
                continue
            first, last = block[1], last_of(block)
            if stretches and first <= stretches[-1][1] + 1:
                stretches[-1] = (stretches[-1][0], max(last, stretches[-1][1]))
            else:
                stretches.append((first, last))
        return stretches
