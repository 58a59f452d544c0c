"""The way from what stands to what shall be: operations in safe order.

Removals come first (they free names and addresses), then changes in place, then new links. `plan(d, d)` is
empty, and any prefix of a plan may be applied and planned anew.
"""

from collections.abc import Collection, Mapping
from typing import Any

from services.plumber import model
from services.plumber.core import lookups
from services.plumber.model import (
    Adjust,
    Create,
    End,
    Found,
    Operation,
    Pair,
    Remove,
    Rival,
    Wiring,
)


def plan(
    desired: Mapping[str, Wiring],
    actual: Mapping[str, Pair],
    formerly: Mapping[str, Wiring],
) -> list[Operation]:
    """The way from what stands to what shall be, all by tag.

    `formerly` is what was applied before: addresses and neighbours that are in neither are foreign and stay.
    """
    removals: list[Operation] = []
    changes: list[Operation] = []
    creations: list[Operation] = []
    for connection in sorted(desired.keys() | actual.keys()):
        pair, wanted = actual.get(connection, Pair()), desired.get(connection)
        if wanted is not None and _fits(wanted, pair):
            changes += _adjustments(wanted, pair, formerly.get(connection))
            continue
        if pair.ends:
            removals.append(Remove(connection=connection, ends=pair.ends))
        if wanted is not None:
            creations.append(Create(wiring=wanted))
    return removals + changes + creations


def same_links(one: Wiring, other: Wiring) -> bool:
    """Whether two wirings are the same links, whatever they carry."""
    return one.tunnel == other.tunnel and _sides(one) == _sides(other)


def _sides(wiring: Wiring) -> list[tuple[object, ...] | None]:
    return [None if end is None else _link(end) for end in (wiring.client, wiring.server)]


def _link(end: End | Found) -> tuple[object, ...]:
    # The network is known by its cookie: it is the same one under another path.
    return end.place.uid, end.place.cookie, end.interface, end.mac


def _fits(wanted: Wiring, pair: Pair) -> bool:
    for end, stands in ((wanted.client, pair.client), (wanted.server, pair.server)):
        if (end is None) != (stands is None):
            return False
        if end is None or stands is None:
            continue
        if _link(end) != _link(stands) or stands.tunnel != wanted.tunnel:
            return False
    client, server = pair.client, pair.server
    if client is None or server is None:
        return wanted.tunnel is not None
    return client.peer_index == server.index and server.peer_index == client.index


def _adjustments(wanted: Wiring, pair: Pair, formerly: Wiring | None) -> list[Operation]:
    found: list[Operation] = []
    for end, before, stands in (
        (wanted.client, formerly.client if formerly else None, pair.client),
        (wanted.server, formerly.server if formerly else None, pair.server),
    ):
        if end is None or stands is None:
            continue  # on another node
        change = _adjustment(wanted, end, before, stands)
        if change is not None:
            found.append(change)
    return found


def _adjustment(wanted: Wiring, end: End, before: End | None, stands: Found) -> Adjust | None:
    missing = sorted(end.routes - stands.routes)
    changed = _in_our_place(before, stands)
    replaced = {route.destination for route in missing}
    old_addresses = before.addresses if before else frozenset[str]()
    old_neighbours = before.neighbours if before else frozenset[model.Neighbour]()
    at = {neighbour.address for neighbour in end.neighbours}
    tables: dict[str, Any] = lookups.changes(end.lookups, stands)
    change = Adjust(
        wiring=wanted,
        end=end,
        found=stands,
        add_addresses=tuple(sorted(end.addresses - stands.addresses)),
        add_routes=tuple(r for r in missing if r.destination not in changed),
        change_routes=tuple(r for r in missing if r.destination in changed),
        set_neighbours=tuple(sorted(end.neighbours - stands.neighbours)),
        drop_routes=tuple(
            sorted(r for r in stands.routes - end.routes if r.destination not in replaced)
        ),
        drop_neighbours=tuple(
            sorted(n for n in stands.neighbours & old_neighbours if n.address not in at)
        ),
        drop_addresses=tuple(sorted((stands.addresses & old_addresses) - end.addresses)),
        **tables,
    )
    same = Adjust(wiring=wanted, end=end, found=stands)
    marked = stands.up and (stands.revision, stands.mtu) == (wanted.revision, wanted.mtu)
    answering = stands.answers_for_all or not end.answers_for_all
    return None if marked and answering and change == same else change


def _in_our_place(before: End | None, stands: Found) -> set[str]:
    """Destinations whose standing route is ours to replace.

    A foreign one is where it leads through our link, or where ours was applied before: it took its place. One that
    stood first stays, and so does another connection's, which would take it back.
    """
    applied = {route.destination for route in before.routes} if before else set[str]()
    kept = {r.destination for r in stands.rivals if not _yields_to_us(r, applied)}
    rivals = {rival.destination for rival in stands.rivals}
    return {route.destination for route in stands.routes} | (rivals - kept)


def _yields_to_us(rival: Rival, applied: Collection[str]) -> bool:
    return not rival.is_ours and (rival.is_here or rival.destination in applied)
