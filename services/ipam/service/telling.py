"""What ipam says beside grants: figures of pools and all prefixes in use, on change only, once in a while."""

import asyncio
from collections.abc import Callable

from schemas.grant import ClusterPrefixes, Pool
from schemas.subjects import ClusterKey, PoolKey
from services._runtime.mirror import Mirror
from services.ipam.adapters import Store
from services.ipam.core.state import State
from services.ipam.service.figures import Figures


class Telling:
    """Tells what changed since it was told last."""

    def __init__(
        self, own: Mirror, state: State, figures: Figures, *, make_room: Callable[[], None]
    ) -> None:
        self._own = own
        self._make_room = make_room
        self._state = state
        self._figures = figures

    async def run(self, store: Store, *, interval_seconds: float) -> None:
        """For ever; each pool at most once per interval."""
        while True:
            await asyncio.sleep(interval_seconds)
            await self.tell_prefixes(store)
            self._look_for_prefixes()
            if self._state.changed:
                await self._tell_pools(store)

    async def tell_prefixes(self, store: Store) -> None:
        """All prefixes in use: plumbers keep them on the CNI where a default route leads into a connection."""
        told = ClusterPrefixes(prefixes=self._state.cluster_prefixes())
        if told != self._own.items.get(ClusterKey()) or ClusterKey() in self._own.stale:
            await store.tell(told)

    def _look_for_prefixes(self) -> None:
        """Who lacks automatic prefixes may get them now that others gave some up, and so may their clients."""
        hopeful = self._state.pools.hopeful()
        if hopeful:
            self._state.changed |= hopeful
            self._make_room()

    async def _tell_pools(self, store: Store) -> None:
        changed, self._state.changed = self._state.changed, set()
        for object_ in sorted(changed):
            key = PoolKey(*object_)
            pool, told = self._state.figures(object_), self._own.items.get(key)
            if pool is None and told is not None and self._state.is_idle(object_):
                await store.forget(key)
            elif pool is not None and (pool != told or key in self._own.stale):
                await store.tell(pool)
        self._figures.sum_up(pool for pool in self._own.items.values() if isinstance(pool, Pool))
