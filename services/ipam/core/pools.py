"""All pools, and what their space hangs on: specs, prefixes in use, prefixes carved for endpoints that name none."""

from collections.abc import Callable, Collection, Mapping

import msgspec

from schemas import grant, intent
from schemas.grant import Pool as Figures
from schemas.subjects import RequestKey
from services.ipam.core import blocks, figures
from services.ipam.core.automatic import OTHERS, Automatic
from services.ipam.core.blocks import Block, Host
from services.ipam.core.exclusions import Change, Exclusions
from services.ipam.core.holdings import ObjectKey
from services.ipam.core.pool import Pool
from services.ipam.core.ranges import Ranges
from services.ipam.core.registry import Registry
from services.ipam.core.table import Table

Claims = Callable[[ObjectKey], Mapping[RequestKey, Mapping[Host, int]]]


class Pools:
    """Made when first asked for, and anew when a spec changed; then entered with what `claims` of it stands."""

    def __init__(
        self, registry: Registry, exclusions: Exclusions, automatic: Automatic, claims: Claims
    ) -> None:
        self.changed: set[ObjectKey] = set()
        self._registry = registry
        self._exclusions = exclusions
        self._automatic = automatic
        self._claims = claims
        self._pools: dict[ObjectKey, Pool] = {}
        self._made_of: dict[ObjectKey, tuple[intent.IpamSpec, tuple[Block, ...]]] = {}
        self._where: Table[ObjectKey, bool] = Table()
        self._used_up: dict[int, int] = {}  # family → how much was given up until then
        self._lacking: dict[ObjectKey, int] = {}  # who got none of a family → the same

    def get(self, object_: ObjectKey) -> Pool | None:
        return self._pools.get(object_)

    def of(self, endpoint: intent.Endpoint) -> Pool:
        """The pool of an endpoint's object. Raises ValueError for a bad spec."""
        key = (endpoint.pod.namespace, endpoint.endpoint)
        spec = self._registry.spec_of(key) or endpoint.ipam
        if spec.prefixes:
            self._automatic.forget(key)
            self._lacking.pop(key, None)
        else:
            self._provide(key)
        made_of = (spec, self._automatic.given(key))
        if self._made_of.get(key) == made_of:
            return self._pools[key]
        prefixes = spec.prefixes or tuple(map(blocks.show, made_of[1]))
        pool = Pool(msgspec.structs.replace(spec, prefixes=prefixes), self._exclusions)
        self.drop(key)
        self._pools[key] = pool
        self._made_of[key] = made_of
        for block in pool.own:
            self._where.put(block, key, True)
        for owner, claims in self._claims(key).items():
            pool.put(owner, (), claims)
        self.changed.add(key)
        return pool

    def extend(self, object_: ObjectKey, family: int) -> bool:
        """One more prefix for an endpoint that names none and whose own is used up by others. Whether there was one."""
        if not self._automatic.given(object_):
            return False
        return self._carve(object_, family)

    def lacks(self, object_: ObjectKey) -> tuple[grant.Lack, ...]:
        """Families of which an endpoint that names no prefix has none, and who has all there is."""
        spec = self._registry.spec_of(object_)
        if spec is None or spec.prefixes:
            return ()
        return tuple(map(self.lack, self._missing(object_)))

    def lack(self, family: int) -> grant.Lack:
        """Why no more prefixes of a family can be carved."""
        supernets = self._automatic.supernets(family)
        uses = (use for net in supernets if (use := self._exclusions.overlapping(net)))
        return grant.Lack(
            family=family,
            supernets=tuple(map(blocks.show, supernets)),
            taken_by=str(next(uses, None) or OTHERS),
        )

    def hopeful(self) -> set[ObjectKey]:
        """Who lacks a family, and may get it now: something was given up since it was looked for."""
        given_up = self._given_up()
        return {each for each, at in self._lacking.items() if at != given_up}

    def drop(self, object_: ObjectKey) -> None:
        pool = self._pools.pop(object_, None)
        self._made_of.pop(object_, None)
        for block in pool.own if pool is not None else ():
            self._where.drop(block, object_)

    def follow(self, change: Change) -> set[RequestKey]:
        """Prefixes in use changed. Returns who has addresses of what came to be in use."""
        for block in change.removed:
            pools = [self._pools[key] for _, key, _ in self._where.overlapping(block)]
            for first, last in self._exclusions.clear_of(block) if pools else ():
                for pool in pools:
                    pool.spaces[block[0]].include(first, last)
        touched: set[RequestKey] = set()
        for block in change.added:
            first, last = block[1], blocks.last_of(block)
            for _, key, _ in self._where.overlapping(block):
                space = self._pools[key].spaces[block[0]]
                space.exclude(first, last)
                touched |= space.owners_within(first, last)
        for block in (*change.removed, *change.added):
            self.changed.update(key for _, key, _ in self._where.overlapping(block))
            self.changed.update(key for _, key, _ in self._registry.declared.overlapping(block))
        return touched

    def figures(self, object_: ObjectKey, *, is_idle: bool) -> Figures | None:
        """What a pool holds; None if its endpoint is gone and all is given back, or if it has a bad spec."""
        endpoint = next(iter(self._registry.objects.get(object_, {}).values()), None)
        if endpoint is None:
            self._lacking.pop(object_, None)
        if endpoint is None and is_idle:
            self.drop(object_)
            self._automatic.forget(object_)
            return None
        try:
            pool = self.of(endpoint) if endpoint is not None else self._left(object_)
        except ValueError:
            return None
        spec = self._registry.spec_of(object_)
        is_automatic = bool(self._automatic.given(object_)) or not (spec and spec.prefixes)
        if is_automatic:
            self._tidy(object_, pool)
        return figures.figures(
            object_,
            pool,
            endpoint,
            self._exclusions,
            is_automatic=is_automatic,
            lacks=self.lacks(object_),
        )

    def _left(self, key: ObjectKey) -> Pool:
        """The pool of an endpoint that is gone. If that was before our time, what is held is all of it."""
        pool = self._pools.get(key)
        if pool is not None:
            return pool
        claims = self._claims(key)
        hosts = {host for each in claims.values() for host in each}
        own = self._automatic.given(key) or _covering(hosts)
        spec = intent.IpamSpec(prefixes=tuple(map(blocks.show, own)), addressing="pointToPoint")
        pool = Pool(spec, self._exclusions)
        for owner, each in claims.items():
            pool.put(owner, (), each)
        return pool

    def _provide(self, key: ObjectKey) -> None:
        """A carved prefix of every family there are supernets of."""
        if not self._missing(key):
            return
        self._automatic.recall(key)
        carved = [self._carve(key, family) for family in self._missing(key)]
        if all(carved):
            self._lacking.pop(key, None)
        else:
            self._lacking[key] = self._given_up()

    def _carve(self, key: ObjectKey, family: int) -> bool:
        """Where there was nothing left there still is nothing until somebody gives something up."""
        given_up = self._given_up()
        if self._used_up.get(family) == given_up:
            return False
        # What other endpoints declare is avoided, for a Pod may be a client of both; where they declare all there is,
        # an overlap that may meet such a Pod is better than no prefix for anybody.
        is_carved = self._automatic.carve(key, family, self._in_the_way) or self._automatic.carve(
            key, family, self._in_use
        )
        if is_carved:
            self.changed.add(key)
        else:
            self._used_up[family] = given_up
        return is_carved

    def _given_up(self) -> int:
        return self._automatic.dropped + self._exclusions.dropped

    def _in_use(self, block: Block) -> Block | None:
        use = self._exclusions.overlapping(block)
        return blocks.of_prefix(use.prefix) if use is not None else None

    def _in_the_way(self, block: Block) -> Block | None:
        declared = (other for other, _, _ in self._registry.declared.overlapping(block))
        return self._in_use(block) or next(declared, None)

    def _missing(self, key: ObjectKey) -> list[int]:
        known = {block[0] for block in self._automatic.given(key)}
        return [family for family in self._automatic.families if family not in known]

    def _tidy(self, key: ObjectKey, pool: Pool) -> None:
        """Older carved prefixes came to be in use: who had addresses of them has others by now."""
        for space in pool.spaces.values():
            idle = [block for block in space.own[1:] if not space.is_block_held(block)]
            if idle:
                self._automatic.forget(key, idle)
                self.changed.add(key)


def _covering(hosts: Collection[Host]) -> list[Block]:
    """The fewest prefixes that hold these and nothing else."""
    found = []
    for family in blocks.BITS:
        numbers = Ranges((number, number) for version, number in hosts if version == family)
        for first, last in numbers:
            found += blocks.blocks_of(family, first, last)
    return found
