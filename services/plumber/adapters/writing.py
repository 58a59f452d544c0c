"""Changes of the kernel: messages made from our values, sent several at a time.

One request creates a link, both ends of a pair included, with names, MACs and MTU. The alias comes last, after the
probe: a link that carries it is complete, and one of our group without it is what an interrupted creation left.
"""

import contextlib
import errno
import itertools
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from schemas.grant import TUNNEL_PORT
from services._node import encoding, links, probe
from services._node.encoding import Identity, Path, Request
from services._node.links import CREATE, REPLACE, LinkError, Netlink
from services.plumber.adapters import tables
from services.plumber.adapters.errors import NameTaken, Refused, RouteTaken, Standing
from services.plumber.adapters.inside import Inside
from services.plumber.adapters.reading import GROUP, is_complete, is_ours
from services.plumber.adapters.tables import PROTOCOL
from services.plumber.model import (
    Adjust,
    End,
    Found,
    Neighbour,
    Pair,
    Route,
    Tunnel,
    Wiring,
    render_alias,
)

_LOOSE = 2
_PROBE_SECONDS = 1.0
_LOCAL_SECONDS = 2.0
_LOOK_SECONDS = 0.0005

# Chosen by us, so that nothing needs to be looked up; far from where the kernel counts.
_indexes = itertools.count(0x1000000 + secrets.randbelow(0x10000000))


class Side(NamedTuple):
    """An end of this node, and the ways into its Pod's network."""

    end: End
    fd: int
    socket: Netlink
    inside: Inside


def create(wiring: Wiring, sides: Sequence[Side], node: Netlink | None) -> Pair:
    """The ends of this node, complete; a pair proved by a frame each way; or nothing.

    `sides` as `wiring.ends`; `node` is a socket in the node's network, for tunnels.
    """
    born = _create_links(wiring, sides, node)
    try:
        return _complete(wiring, sides, born)
    except BaseException:
        with contextlib.suppress(OSError):
            sides[0].socket.request([encoding.delete_link(born[0].number)])
        raise


def adjust(change: Adjust, inside: Inside, socket: Netlink) -> None:
    """Change one end in place; additions first, so that traffic always has a way."""
    end, wiring, index = change.end, change.wiring, change.found.index
    if change.add_addresses or not change.found.up:
        inside.settle_ipv6(end)
    requests = [
        _named(wiring, end, index),
        *_configuration(
            index,
            addresses=change.add_addresses,
            neighbours=change.set_neighbours,
            routes=change.add_routes,
        ),
        *(_route(links.NEWROUTE, index, r, REPLACE) for r in change.change_routes),
    ]
    with _naming_rivals(socket, end, index):
        socket.request(requests)
    _until_local(socket, change.add_addresses)
    tables.extend(socket, change)
    tables.withdraw(socket, change)
    drops = [
        *(_route(links.DELROUTE, index, r) for r in change.drop_routes),
        *(
            links.neighbour(links.DELNEIGH, index=index, address=n.address)
            for n in change.drop_neighbours
        ),
        *(links.address(links.DELADDR, index=index, address=a) for a in change.drop_addresses),
    ]
    for drop in drops:
        _tolerating_absence(socket, drop)


def clear(socket: Netlink, end: End, connection: str) -> None:
    """Remove what has the end's name if it is ours, complete or not."""
    standing = socket.look_up(name=end.interface)
    if standing is not None and is_ours(standing, connection):
        _tolerating_absence(socket, encoding.delete_link(standing.index))


def _create_links(wiring: Wiring, sides: Sequence[Side], node: Netlink | None) -> list[Identity]:
    """The links that it made. Raises NameTaken or LinkError."""
    for last in (False, True):
        born = [_identity(wiring, side.end) for side in sides]
        try:
            _request_links(wiring.tunnel, sides, born, node)
        except LinkError as exc:
            # what is in use is an index, then other ones help, or a name, or a VNI
            if last or exc.errno not in {errno.EEXIST, errno.EBUSY}:
                raise
            _remove_debris(wiring, sides)
        else:
            break
    return born


def _request_links(
    tunnel: Tunnel | None, sides: Sequence[Side], born: Sequence[Identity], node: Netlink | None
) -> None:
    if tunnel is None:
        request = encoding.veth(*born, other_netns=sides[1].fd)
        sides[0].socket.request([request])
        return
    assert node is not None, "a tunnel starts in the node's network"
    path = Path(tunnel.vni, tunnel.local, tunnel.remote, TUNNEL_PORT)
    node.request([encoding.vxlan(born[0], path, netns=sides[0].fd)])


def _remove_debris(wiring: Wiring, sides: Sequence[Side]) -> None:
    """Remove what an interrupted creation left under our names. Raises NameTaken for what is not ours, or Standing."""
    for side in sides:
        standing = side.socket.look_up(name=side.end.interface)
        if standing is None:
            continue
        if not is_ours(standing, wiring.tag):
            raise NameTaken(side.end.interface, side.end.place.uid)
        if is_complete(standing, wiring.tag, is_server=side.end == wiring.server):
            raise Standing(side.end.interface)
        clear(side.socket, side.end, wiring.tag)


def _complete(wiring: Wiring, sides: Sequence[Side], born: Sequence[Identity]) -> Pair:
    ends = list(zip(sides, born, strict=True))
    for side, identity in ends:
        side.inside.settle_ipv6(side.end)
        _configure(side, identity.number, is_last=side is sides[-1])
    for side, identity in ends[:-1]:
        side.socket.request([encoding.see_link(identity.number)])
    for side in sides:
        _until_local(side.socket, side.end.addresses)
    if wiring.tunnel is None:
        _prove(sides)
    for side, identity in ends:
        alias = _alias(wiring, side.end)
        side.socket.request([encoding.set_alias(identity.number, alias)])
    indexes = [identity.number for identity in born]
    found = {
        side.end: _made(wiring, side.end, index, peer)
        for side, index, peer in zip(sides, indexes, reversed(indexes), strict=True)
    }
    return Pair(
        client=found[wiring.client] if wiring.client else None,
        server=found[wiring.server] if wiring.server else None,
    )


def _configure(side: Side, index: int, *, is_last: bool) -> None:
    """To be seen once after both ends are up: it makes the first packet arrive (measured: else 5-32 % were lost)."""
    end = side.end
    content = _configuration(
        index,
        addresses=sorted(end.addresses),
        neighbours=sorted(end.neighbours),
        routes=sorted(end.routes),
    )
    seen = [encoding.see_link(index)] if is_last else []
    with _naming_rivals(side.socket, end, index):
        side.socket.request([_settings(end, index), *content, *seen])


@contextlib.contextmanager
def _naming_rivals(socket: Netlink, end: End, index: int) -> Iterator[None]:
    """The kernel says no more than that a file exists. Raises RouteTaken or Refused."""
    try:
        yield
    except LinkError as exc:
        if exc.errno == errno.EEXIST and (found := tables.rivals(socket, index, end.routes)):
            raise RouteTaken(end.interface, found) from exc
        raise Refused(f"{end.interface}: {exc.strerror}") from exc


def _until_local(socket: Netlink, addresses: Iterable[str]) -> None:
    """An IPv6 address is acknowledged before packets for it are taken in (measured: 4 % of the first were lost)."""
    deadline = time.monotonic() + _LOCAL_SECONDS
    for address in addresses:
        ip = address.partition("/")[0]
        while ":" in ip and not socket.is_local(ip):
            if time.monotonic() > deadline:
                raise Refused(f"{ip} is not in use {_LOCAL_SECONDS:g} s after it was added")
            time.sleep(_LOOK_SECONDS)


def _made(wiring: Wiring, end: End, index: int, peer: int) -> Found:
    return Found(
        place=end.place,
        interface=end.interface,
        index=index,
        peer_index=peer if wiring.tunnel is None else 0,
        revision=wiring.revision,
        mac=end.mac,
        mtu=wiring.mtu,
        up=True,
        addresses=end.addresses,
        routes=end.routes,
        neighbours=end.neighbours,
        tunnel=wiring.tunnel,
        answers_for_all=end.answers_for_all,
    )


def _prove(sides: Sequence[Side]) -> None:
    """Across nodes the other end comes when it comes: that is asked for elsewhere, again and again."""
    one, other = (side.inside.side(side.end) for side in sides)
    if not probe.passes(one, other, timeout_seconds=_PROBE_SECONDS):
        raise Refused(
            f"no frame passed between {one.interface!r} and {other.interface!r} "
            f"within {_PROBE_SECONDS:g} s of their set-up"
        )


def _identity(wiring: Wiring, end: End) -> Identity:
    return Identity(end.interface, end.mac, wiring.mtu, GROUP, next(_indexes))


def _settings(end: End, index: int, **more: Any) -> Request:
    inet = {encoding.RP_FILTER: _LOOSE}
    if end.answers_for_all:
        inet[encoding.PROXY_ARP] = 1
    return encoding.settings(index, inet=inet, **more)


def _named(wiring: Wiring, end: End, index: int) -> Request:
    return _settings(end, index, alias=_alias(wiring, end), mtu=wiring.mtu)


def _alias(wiring: Wiring, end: End) -> str:
    return render_alias(wiring.tag, wiring.revision, is_server=end == wiring.server)


def _configuration(
    index: int,
    *,
    addresses: Iterable[str],
    neighbours: Iterable[Neighbour],
    routes: Iterable[Route],
) -> list[Request]:
    """In the order of need: a route's source must stand, and so must the way to its gateway."""
    return [
        *(links.address(links.NEWADDR, index=index, address=a, flags=CREATE) for a in addresses),
        *(
            links.neighbour(
                links.NEWNEIGH, index=index, address=n.address, mac=n.mac, flags=REPLACE
            )
            for n in neighbours
        ),
        # CREATE, not REPLACE: a foreign route that stood before is not ours to take
        *(
            _route(links.NEWROUTE, index, route, CREATE)
            for route in sorted(routes, key=lambda r: (bool(r.gateway), r))
        ),
    ]


def _route(kind: int, index: int, route: Route, flags: int = 0) -> Request:
    return links.route(
        kind,
        index=index,
        destination=route.destination,
        gateway=route.gateway,
        source=route.source if kind == links.NEWROUTE else "",
        protocol=PROTOCOL,
        flags=flags,
    )


def _tolerating_absence(socket: Netlink, message: Request) -> None:
    """What is gone already needs no removal: the kernel drops routes with their address or link."""
    try:
        socket.request([message])
    except LinkError as exc:
        if exc.errno not in {errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL}:
            raise
