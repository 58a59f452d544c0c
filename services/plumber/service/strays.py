"""Links of ours that no file told of: the runtime directory was lost, or a file cannot be read.

They are adopted when their grant is wired, removed when it is released, and removed when everything that is
granted is known and nobody knows them. A network is searched once; what is held is no stray.
"""

from collections.abc import Callable, Collection

import structlog

from services.plumber.adapters import Gone, Kernel, Refused
from services.plumber.model import Place, Stray, Wiring

log = structlog.get_logger()


class Strays:
    """What stood in Pods' networks when they were first seen, by connection."""

    def __init__(self, kernel: Kernel) -> None:
        self.blind: set[str] = set()  # uids of Pods whose network could not be searched yet
        self._kernel = kernel
        self._searched: set[Place] = set()
        self._found: dict[str, list[Stray]] = {}

    async def look(self, places: Collection[Place], held: Callable[[], set[str]]) -> None:
        """Search the networks that were not searched before, for connections that are not held."""
        self._searched &= set(places)
        self.blind &= {place.uid for place in places}
        known: set[str] = set()
        for place in set(places) - self._searched:
            try:
                strays = await self._kernel.find_strays(place)
            except Gone:
                continue
            except Refused as exc:
                self.blind.add(place.uid)
                log.warning("pod network not searched", uid=place.uid, reason=str(exc))
                continue
            self._searched.add(place)
            self.blind.discard(place.uid)
            for stray in strays:
                if stray.connection not in known:
                    known = held()  # seldom: a node has hundreds, and each name is a hash
                if stray.connection not in known:
                    self._found.setdefault(stray.connection, []).append(stray)

    def adopt(self, connection: str) -> None:
        """It is known now, and written down."""
        self._found.pop(connection, None)

    async def remove(self, connection: str, *, but: Wiring | None = None) -> None:
        """Remove what stands of a connection, but not in the place of its wiring. Raises Refused."""
        kept = [] if but is None else [(end.place, end.interface) for end in but.ends]
        found = self._found.get(connection, [])
        for stray in [s for s in found if (s.place, s.interface) not in kept]:
            await self._kernel.remove_stray(stray)
            if stray not in found:
                continue  # somebody else removed it meanwhile
            found.remove(stray)
            _tell(stray)
        if not found:
            self._found.pop(connection, None)

    async def hunt(self, connection: str, places: Collection[Place]) -> None:
        """Remove what stands of a connection there under whatever name. Raises Refused or Gone."""
        for place in places:
            for stray in await self._kernel.find_strays(place):
                if stray.connection == connection:
                    await self._kernel.remove_stray(stray)
                    _tell(stray)

    async def prune(self, is_known: Callable[[str], bool]) -> None:
        """Remove what nobody knows; call it only once everything that is granted is known."""
        for connection in list(self._found):
            if is_known(connection):
                continue
            try:
                await self.remove(connection)
            except Refused as exc:
                log.warning("unknown link of ours not removed", reason=str(exc))


def _tell(stray: Stray) -> None:
    log.info(
        "unknown link of ours removed",
        uid=stray.place.uid,
        interface=stray.interface,
        connection=stray.connection,
    )
