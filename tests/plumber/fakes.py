"""A kernel in a dictionary: performs operations as the real one would, and objects to misuse."""

import itertools

import msgspec

from services.plumber.model import (
    Adjust,
    Create,
    End,
    Found,
    Lookup,
    Operation,
    Pair,
    Remove,
    Wiring,
)

HELD = frozenset({"10.244.1.5", "fd00:244::5"})  # by every Pod


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
        for end in wiring.ends:
            assert (end.place.uid, end.interface) not in self.names(), "name taken"
        one, other = next(self._indexes), next(self._indexes)
        client, server = wiring.client, wiring.server
        self.pairs[wiring.tag] = Pair(
            client=as_found(client, wiring, one, other) if client else None,
            server=as_found(server, wiring, other, one) if server else None,
        )

    def _looked_up(self, change: Adjust) -> frozenset[Lookup]:
        found = set(change.found.lookups)
        for lookup in change.drop_lookups:
            assert lookup in found, "dropped a table that is not there"
            found.remove(lookup)
        for lookup, other in change.change_lookups:
            assert lookup in found, "changed a table that is not there"
            found.remove(lookup)
            found.add(msgspec.structs.replace(lookup, routes=other.routes))
        for lookup in change.add_lookups:
            assert lookup.rule.table == 0, "chose a table"
            rule = msgspec.structs.replace(lookup.rule, table=next(self._indexes))
            found.add(msgspec.structs.replace(lookup, rule=rule))
        return frozenset(found)

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
            after,
            addresses=after.addresses - set(change.drop_addresses),
            lookups=self._looked_up(change),
            kept=(before.kept | set(change.add_rules)) - set(change.drop_rules),
            answers_for_all=before.answers_for_all or change.end.answers_for_all,
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
        tunnel=wiring.tunnel,
        held=HELD,
        answers_for_all=end.answers_for_all,
    )
