"""Changes of the kernel: messages made from our values, sent several at a time.

One request creates both ends with names, MACs and MTU. The alias comes last, after the probe: a link that
carries it is complete, and one of our group without it is what an interrupted creation left.
"""

import contextlib
import errno
from collections.abc import Iterable
from typing import Any

from services._node import links, netns, probe
from services._node.links import CREATE, REPLACE, LinkError, Netlink
from services.plumber.adapters import reading
from services.plumber.adapters.errors import NameTaken, Refused
from services.plumber.adapters.reading import PROTOCOL
from services.plumber.model import (
    Adjust,
    End,
    Neighbour,
    Pair,
    Route,
    Wiring,
    parse_alias,
    render_alias,
)

GROUP = 0x6E736D  # "nsm": our links, also the unnamed ones

_TWO = tuple[Netlink, Netlink]
_LOOSE = "2"
_PROBE_SECONDS = 1.0


def create(wiring: Wiring, fds: tuple[int, int], pair: _TWO) -> Pair:
    """Both ends, complete and proved by a frame each way; or nothing. (Client's first, everywhere.)"""
    _create_links(wiring, fds[1], pair)
    try:
        return _complete(wiring, fds, pair)
    except BaseException:
        _roll_back(wiring, pair)
        raise


def adjust(change: Adjust, fd: int, socket: Netlink) -> None:
    """Change one end in place; additions first, so that traffic always has a way."""
    end, wiring, index = change.end, change.wiring, change.found.index
    if change.add_addresses or not change.found.up:
        _write_sysctls(fd, end)
    socket.request(
        [
            _named(wiring, end, index),
            *_configuration(
                index,
                addresses=change.add_addresses,
                neighbours=change.set_neighbours,
                routes=change.add_routes,
            ),
            *(_route(links.NEWROUTE, index, r, REPLACE) for r in change.change_routes),
        ]
    )
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


def clear(socket: Netlink, end: End, connection: str) -> bool:
    """Remove what has the end's name if it is ours, complete or not. Whether there was anything."""
    standing = socket.find_link(end.interface)
    if standing is None or not is_ours(standing, connection):
        return False
    _tolerating_absence(socket, links.link(links.DELLINK, index=standing["index"]))
    return True


def is_ours(link: Any, connection: str) -> bool:
    """Of our group, and carrying the connection's tag, or none yet: an interrupted creation's."""
    if link.get_attr("IFLA_GROUP") != GROUP:
        return False
    text = link.get_attr("IFLA_IFALIAS")
    alias = parse_alias(text)
    return not text or (alias is not None and alias.tag == connection)


def _create_links(wiring: Wiring, server_fd: int, pair: _TWO) -> None:
    peer = [*_identity(wiring, wiring.server), ("IFLA_NET_NS_FD", server_fd)]
    message = [
        *_identity(wiring, wiring.client),
        (
            "IFLA_LINKINFO",
            {
                "attrs": [
                    ("IFLA_INFO_KIND", "veth"),
                    ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]}),
                ]
            },
        ),
    ]
    try:
        pair[0].request([links.link(links.NEWLINK, flags=CREATE, attrs=message)])
    except LinkError as exc:
        if exc.errno != errno.EEXIST:
            raise
        if not _remove_debris(wiring, pair):
            raise
        pair[0].request([links.link(links.NEWLINK, flags=CREATE, attrs=message)])


def _remove_debris(wiring: Wiring, pair: _TWO) -> bool:
    """Remove what an interrupted creation left under our names. Raises NameTaken for what is not ours."""
    removed = False
    for socket, end, _ in _sides(wiring, pair):
        standing = socket.find_link(end.interface)
        if standing is not None and not is_ours(standing, wiring.tag):
            raise NameTaken(end.interface, end.place.uid)
        removed = clear(socket, end, wiring.tag) or removed
    return removed


def _complete(wiring: Wiring, fds: tuple[int, int], pair: _TWO) -> Pair:
    indexes: list[int] = []
    for socket, end, _ in _sides(wiring, pair):
        standing = socket.find_link(end.interface)
        if standing is None:
            raise Refused(f"interface {end.interface!r} vanished while it was set up")
        indexes.append(standing["index"])
    for (socket, end, _), fd, index in zip(_sides(wiring, pair), fds, indexes, strict=True):
        _write_sysctls(fd, end)
        socket.request([links.link(links.NEWLINK, index=index, up=True)])
    for (socket, end, _), index in zip(_sides(wiring, pair), indexes, strict=True):
        try:
            socket.request(
                _configuration(
                    index,
                    addresses=sorted(end.addresses),
                    neighbours=sorted(end.neighbours),
                    routes=sorted(end.routes),
                )
            )
        except LinkError as exc:
            raise Refused(f"{end.interface}: {exc.strerror}") from exc
    return _proved(wiring, fds, pair, indexes)


def _proved(wiring: Wiring, fds: tuple[int, int], pair: _TWO, indexes: list[int]) -> Pair:
    # reading each end once after up is what makes the first packet arrive (measured: else 5-32 % lost)
    ends = [
        reading.found(
            socket.get(links.link(links.GETLINK, index=index)),
            end,
            wiring.revision,
            addresses=end.addresses,
            routes=end.routes,
            neighbours=end.neighbours,
        )
        for (socket, end, _), index in zip(_sides(wiring, pair), indexes, strict=True)
    ]
    sides = [
        probe.Side(fd, end.interface, end.mac)
        for fd, end in zip(fds, (wiring.client, wiring.server), strict=True)
    ]
    if not probe.passes(*sides, timeout_seconds=_PROBE_SECONDS):
        raise Refused(
            f"no frame passed between {wiring.client.interface!r} and {wiring.server.interface!r} "
            f"within {_PROBE_SECONDS:g} s of their set-up"
        )
    for (socket, end, _), index in zip(_sides(wiring, pair), indexes, strict=True):
        socket.request([_named(wiring, end, index)])
    return Pair(client=ends[0], server=ends[1])


def _roll_back(wiring: Wiring, pair: _TWO) -> None:
    """Delete the pair by its client's end; called only after we made it under that name."""
    with contextlib.suppress(OSError):
        standing = pair[0].find_link(wiring.client.interface)
        if standing is not None and standing.get_attr("IFLA_GROUP") == GROUP:
            pair[0].request([links.link(links.DELLINK, index=standing["index"])])


def _sides(wiring: Wiring, pair: _TWO) -> tuple[tuple[Netlink, End, bool], ...]:
    return (pair[0], wiring.client, False), (pair[1], wiring.server, True)


def _identity(wiring: Wiring, end: End) -> list[tuple[str, Any]]:
    return [
        ("IFLA_IFNAME", end.interface),
        ("IFLA_MTU", wiring.mtu),
        ("IFLA_ADDRESS", end.mac),
        ("IFLA_GROUP", GROUP),
    ]


def _named(wiring: Wiring, end: End, index: int) -> Any:
    alias = render_alias(wiring.tag, wiring.revision, is_server=end == wiring.server)
    attrs = [("IFLA_IFALIAS", alias), ("IFLA_MTU", wiring.mtu)]
    return links.link(links.NEWLINK, index=index, up=True, attrs=attrs)


def _configuration(
    index: int,
    *,
    addresses: Iterable[str],
    neighbours: Iterable[Neighbour],
    routes: Iterable[Route],
) -> list[Any]:
    """In the order of need: a route's source must stand, and so must the way to its gateway."""
    return [
        *(links.address(links.NEWADDR, index=index, address=a, flags=CREATE) for a in addresses),
        *(
            links.neighbour(
                links.NEWNEIGH, index=index, address=n.address, mac=n.mac, flags=REPLACE
            )
            for n in neighbours
        ),
        # CREATE, not REPLACE: a foreign route to the same destination is not ours to take
        *(
            _route(links.NEWROUTE, index, route, CREATE)
            for route in sorted(routes, key=lambda r: (bool(r.gateway), r))
        ),
    ]


def _route(kind: int, index: int, route: Route, flags: int = 0) -> Any:
    return links.route(
        kind,
        index=index,
        destination=route.destination,
        gateway=route.gateway,
        source=route.source if kind == links.NEWROUTE else "",
        protocol=PROTOCOL,
        flags=flags,
    )


def _write_sysctls(target: netns.Target, end: End) -> None:
    values = {f"ipv4/conf/{end.interface}/rp_filter": _LOOSE}
    switch = f"ipv6/conf/{end.interface}/disable_ipv6"
    if any(":" in address for address in end.addresses):
        values[switch] = "0"
    # where the kernel has IPv6 off, or the MTU is below IPv6's least, an interface has no such settings
    where_known = {f"ipv6/conf/{end.interface}/accept_ra": "0"}
    try:
        netns.write_sysctls(target, values, where_known=where_known)
    except FileNotFoundError as exc:
        if switch not in str(exc.filename):
            raise
        raise Refused(
            f"{end.interface}: an IPv6 address was granted, but IPv6 is off here: switch it on in the kernel "
            "and let the MTU be 1280 at least, or give the endpoint an IPv4 prefix"
        ) from exc


def _tolerating_absence(socket: Netlink, message: Any) -> None:
    """What is gone already needs no removal: the kernel drops routes with their address or link."""
    try:
        socket.request([message])
    except LinkError as exc:
        if exc.errno not in {errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL}:
            raise
