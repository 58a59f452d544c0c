"""A kernel in a dictionary: performs operations as the real one would, and objects to misuse."""

import itertools

import msgspec

from services.plumber.model import Adjust, Create, End, Found, Operation, Pair, Remove, Wiring


class FakeKernel:
    def __init__(self) -> None:
        self.pairs: dict[str, Pair] = {}
        self._indexes = itertools.count(100)

    def apply(self, operation: Operation) -> None:
        match operation:
            case Create():
                self._create(operation.wiring)
            case Adjust():
                self._adjust(operation)
            case Remove():
                assert operation.ends, "a removal of nothing"
                del self.pairs[operation.connection]

    def names(self) -> list[tuple[str, str]]:
        """(Pod, interface) of everything that stands."""
        return [
            (end.place.uid, end.interface)
            for pair in self.pairs.values()
            for end in (pair.client, pair.server)
            if end is not None
        ]

    def _create(self, wiring: Wiring) -> None:
        assert wiring.tag not in self.pairs, "created twice"
        for end in (wiring.client, wiring.server):
            assert (end.place.uid, end.interface) not in self.names(), "name taken"
        one, other = next(self._indexes), next(self._indexes)
        self.pairs[wiring.tag] = Pair(
            client=as_found(wiring.client, wiring, one, other),
            server=as_found(wiring.server, wiring, other, one),
        )

    def _adjust(self, change: Adjust) -> None:
        pair = self.pairs[change.wiring.tag]
        side = "client" if change.end == change.wiring.client else "server"
        before = getattr(pair, side)
        assert before == change.found, "planned for another state"
        destinations = {route.destination for route in change.change_routes}
        kept = {r for r in before.routes if r.destination not in destinations}
        clash = {r.destination for r in change.add_routes} & {r.destination for r in before.routes}
        assert not clash, "added a route that is there"
        at = {n.address for n in change.set_neighbours}
        after = msgspec.structs.replace(
            before,
            revision=change.wiring.revision,
            mtu=change.wiring.mtu,
            up=True,
            addresses=before.addresses | set(change.add_addresses) - set(change.drop_addresses),
            routes=(kept | {*change.add_routes, *change.change_routes}) - {*change.drop_routes},
            neighbours=(
                {n for n in before.neighbours if n.address not in at} | {*change.set_neighbours}
            )
            - {*change.drop_neighbours},
        )
        after = msgspec.structs.replace(
            after, addresses=after.addresses - set(change.drop_addresses)
        )
        self.pairs[change.wiring.tag] = msgspec.structs.replace(pair, **{side: after})


def as_found(end: End, wiring: Wiring, index: int, peer_index: int) -> Found:
    return Found(
        place=end.place,
        interface=end.interface,
        index=index,
        peer_index=peer_index,
        revision=wiring.revision,
        mac=end.mac,
        mtu=wiring.mtu,
        up=True,
        addresses=end.addresses,
        routes=end.routes,
        neighbours=end.neighbours,
    )
