"""Rules and tables of a Pod's network: read, made, withdrawn. Nothing here touches a table that is not ours.

A table is a connection's as long as a route of ours leads from it through the connection's link, so routes come
before the rule that leads to them and go after it. A rule of ours whose table leads nowhere is nobody's: its
link is gone, and `tidy` removes it.
"""

import errno
import itertools
import socket as sockets
import threading
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from typing import NamedTuple

import msgspec

from services._node import decoding, encoding, links
from services._node.encoding import Request
from services._node.links import CREATE, REPLACE, LinkError, Netlink
from services.plumber.model import DEFAULT, MAIN, Adjust, Lookup, Rival, Route, Rule

PROTOCOL = 78  # of our routes and rules: 'N'; unassigned in rt_protos
# In tables of our own the metric is the mark: there, `ip route get` would show any protocol but this one.
IN_TABLES = 3
_MARK = 7878

_FAMILIES = {4: sockets.AF_INET, 6: sockets.AF_INET6}
_VERSIONS = {int(family): version for version, family in _FAMILIES.items()}
_RESERVED = range(253, 256)
_METRICS = {4: 0, 6: 1024}  # what the kernel takes where none is given
_ABSENT = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV})

# Which number is free is looked at and taken at once.
_ONE_AT_A_TIME = threading.Lock()


class Standing(NamedTuple):
    """Our routes through one link, the rules beside them."""

    routes: frozenset[Route] = frozenset()  # of the main table
    lookups: frozenset[Lookup] = frozenset()
    kept: frozenset[Rule] = frozenset()


def read(socket: Netlink, index: int, *, is_client: bool) -> Standing:
    """What of ours leads through a link. A server's end has nothing but routes."""
    found: dict[tuple[int, int], set[Route]] = {}
    for version, table, route in _routes(socket, index):
        found.setdefault((version, table), set()).add(route)
    main = frozenset(r for version in _FAMILIES for r in found.pop((version, MAIN), ()))
    if not is_client:
        return Standing(main)
    rules = _own_rules(socket)
    if found:
        for version, table, route in _yielding(socket):
            if (version, table) in found:
                found[version, table].add(route)
    lookups = {
        Lookup(rule=rule, routes=frozenset(routes))
        for (version, table), routes in found.items()
        for rule in [r for r in rules if (r.family, r.table) == (version, table)]
        or [Rule(family=version, priority=0, table=table)]  # its rule was taken away
    }
    return Standing(main, frozenset(lookups), frozenset(r for r in rules if r.table == MAIN))


def rivals(socket: Netlink, index: int, routes: Collection[Route]) -> frozenset[Rival]:
    """What stands in the main table where `routes` of a link would."""
    wanted = {route.destination for route in routes}
    found: set[Rival] = set()
    for version in {6 if ":" in destination else 4 for destination in wanted}:
        question = links.route(links.GETROUTE, family=_FAMILIES[version], table=MAIN)
        for each in _dumped(socket, question):
            is_here, is_ours = each.index == index, each.protocol == PROTOCOL
            destination = canonical(each.destination)
            if destination not in wanted or (is_here and is_ours):
                continue
            if (each.table, each.metric) != (MAIN, _METRICS[version]):
                continue
            link = socket.look_up(index=each.index) if each.index else None
            found.add(
                Rival(
                    destination=destination,
                    gateway=canonical(each.gateway),
                    interface=link.name if link else "",
                    is_here=is_here,
                    is_ours=is_ours,
                )
            )
    return frozenset(found)


def hollow(socket: Netlink) -> frozenset[Rule]:
    """Rules of ours that lead to a table without a route of ours."""
    return frozenset(
        rule
        for rule in _own_rules(socket)
        if rule.table != MAIN and not _leads_somewhere(socket, rule.family, rule.table)
    )


def held(socket: Netlink, group: int) -> frozenset[str]:
    """Addresses of the Pod on links that are none of ours, without lengths."""
    ours = {each.index for each in socket.links() if each.group == group}
    addresses = [
        ip_address(each.address.partition("/")[0])
        for each in socket.addresses()
        if each.index not in ours
    ]
    return frozenset(str(a) for a in addresses if not (a.is_loopback or a.is_link_local))


def extend(socket: Netlink, change: Adjust) -> None:
    """Make what is new; whatever leads to a table comes after what is in it."""
    index = change.found.index
    with _ONE_AT_A_TIME:
        _clean(socket, change)
        for rule in change.add_rules:
            _tolerating({errno.EEXIST}, socket, _rule(links.NEWRULE, rule, CREATE))
        numbers: dict[int, int] = {}  # a policy's table has one number in both families
        for lookup in change.add_lookups:
            rule = lookup.rule
            if rule.priority not in numbers:
                numbers[rule.priority] = _free_number(socket, numbers.values())
            rule = msgspec.structs.replace(rule, table=numbers[rule.priority])
            socket.request(list(_written(index, rule, lookup.routes)))
            socket.request([_rule(links.NEWRULE, rule, CREATE)])
    for before, after in change.change_lookups:
        socket.request(list(_written(index, before.rule, after.routes - before.routes)))


def withdraw(socket: Netlink, change: Adjust) -> None:
    """Remove what is wanted no more; whatever leads to a table goes before what is in it."""
    index = change.found.index
    with _ONE_AT_A_TIME:
        for lookup in change.drop_lookups:
            _drop(socket, index, lookup)
        for before, after in change.change_lookups:
            staying = {route.destination for route in after.routes}
            gone = [r for r in before.routes if r.destination not in staying]
            _drop_routes(socket, index, before.rule, gone)
        for rule in change.drop_rules:
            _tolerating(_ABSENT, socket, _rule(links.DELRULE, rule))
        if change.drop_lookups:
            _tidy(socket)


def _clean(socket: Netlink, change: Adjust) -> None:
    """Give back the numbers of tables that nothing leads to, so that what is made anew gets them again."""
    if not change.add_lookups:
        return
    for lookup in change.drop_lookups:
        if not lookup.rule.priority:
            _drop(socket, change.found.index, lookup)
    _tidy_tables(socket)


def _drop(socket: Netlink, index: int, lookup: Lookup) -> None:
    if lookup.rule.priority:
        _tolerating(_ABSENT, socket, _rule(links.DELRULE, lookup.rule))
    _drop_routes(socket, index, lookup.rule, lookup.routes)


def tidy(socket: Netlink) -> None:
    """Remove rules of ours that lead nowhere, and what else is left of tables whose link is gone."""
    with _ONE_AT_A_TIME:
        _tidy(socket)


def _tidy(socket: Netlink) -> None:
    in_use = {rule.family for rule in _tidy_tables(socket) if rule.priority == DEFAULT}
    for rule in _own_rules(socket):
        if rule.table == MAIN and rule.family not in in_use:
            _tolerating(_ABSENT, socket, _rule(links.DELRULE, rule))


def _tidy_tables(socket: Netlink) -> list[Rule]:
    """The rules of tables that lead somewhere; the others are gone, and their tables are empty."""
    rules = [rule for rule in _own_rules(socket) if rule.table != MAIN]
    leftover = list(_yielding(socket))
    tables = {(r.family, r.table) for r in rules} | {(v, table) for v, table, _ in leftover}
    living = {each for each in tables if _leads_somewhere(socket, *each)}
    for rule in rules:
        if (rule.family, rule.table) not in living:
            _tolerating(_ABSENT, socket, _rule(links.DELRULE, rule))
    for version, table, route in leftover:
        if (version, table) not in living:
            _drop_routes(socket, 0, Rule(family=version, priority=0, table=table), [route])
    return [rule for rule in rules if (rule.family, rule.table) in living]


def _leads_somewhere(socket: Netlink, version: int, table: int) -> bool:
    question = links.route(
        links.GETROUTE, family=_FAMILIES[version], table=table, protocol=IN_TABLES
    )
    return any(map(_is_ours, _dumped(socket, question)))


def _free_number(socket: Netlink, taken: Collection[int]) -> int:
    """The first table from 1 that no rule leads to and no route is in."""
    ruled = {rule.table for rule in socket.rules()} | {*taken, *_RESERVED}
    return next(
        number
        for number in itertools.count(1)
        if number not in ruled
        and not any(
            _dumped(socket, links.route(links.GETROUTE, family=family, table=number))
            for family in _FAMILIES.values()
        )
    )


def _dumped(socket: Netlink, question: Request) -> list[decoding.Route]:
    try:
        return socket.routes(question)
    except LinkError as exc:
        if exc.errno == errno.ENOENT:  # no such table
            return []
        raise


def _routes(socket: Netlink, index: int) -> Iterator[tuple[int, int, Route]]:
    """Our routes through a link: family, table, route."""
    for family, version in _VERSIONS.items():
        question = links.route(links.GETROUTE, index=index, family=family, table=0)
        for each in socket.routes(question):
            if each.index == index and _is_ours(each):
                yield version, each.table, _route(each)


def _is_ours(found: decoding.Route) -> bool:
    if found.table == MAIN:
        return found.protocol == PROTOCOL
    return (found.protocol, found.metric) == (IN_TABLES, _MARK)


def _yielding(socket: Netlink) -> Iterator[tuple[int, int, Route]]:
    for family, version in _VERSIONS.items():
        question = links.route(
            links.GETROUTE, family=family, table=0, protocol=PROTOCOL, type_=encoding.THROW
        )
        for each in socket.routes(question):
            if each.protocol == PROTOCOL and each.kind == encoding.THROW:
                destination = canonical(each.destination)
                yield version, each.table, Route(destination=destination, yields=True)


def _route(found: decoding.Route) -> Route:
    return Route(
        destination=canonical(found.destination),
        gateway=canonical(found.gateway),
        source=canonical(found.source),
    )


def canonical(text: str) -> str:
    """The one spelling of an address or prefix that is compared; the kernel has another one for IPv4-mapped ones.

    Raises ValueError.
    """
    if "." not in text or ":" not in text:
        return text
    ip, slash, length = text.partition("/")
    return f"{ip_address(ip)}{slash}{length}"


def _own_rules(socket: Netlink) -> list[Rule]:
    return sorted(
        Rule(
            family=_VERSIONS[each.family],
            priority=each.priority,
            table=each.table,
            source=each.source,
            protocol=each.protocol,
            destination_port=each.destination_port,
            source_port=each.source_port,
            no_default=each.no_default,
        )
        for each in socket.rules()
        if each.owner == PROTOCOL
    )


def _written(index: int, rule: Rule, routes: Collection[Route]) -> Iterator[Request]:
    for route in sorted(routes, key=lambda r: (r.yields, bool(r.gateway), r)):
        yield _route_request(links.NEWROUTE, index, rule.table, route, REPLACE)


def _drop_routes(socket: Netlink, index: int, rule: Rule, routes: Collection[Route]) -> None:
    for route in routes:
        _tolerating(_ABSENT, socket, _route_request(links.DELROUTE, index, rule.table, route))


def _route_request(kind: int, index: int, table: int, route: Route, flags: int = 0) -> Request:
    return links.route(
        kind,
        index=0 if route.yields else index,
        destination=route.destination,
        gateway=route.gateway,
        source=route.source if kind == links.NEWROUTE else "",
        protocol=PROTOCOL if route.yields else IN_TABLES,
        metric=0 if route.yields else _MARK,
        table=table,
        type_=encoding.THROW if route.yields else encoding.UNICAST,
        flags=flags,
    )


def _rule(kind: int, rule: Rule, flags: int = 0) -> Request:
    return links.rule(
        kind,
        family=_FAMILIES[rule.family],
        priority=rule.priority,
        table=rule.table,
        source=rule.source,
        protocol=rule.protocol,
        destination_port=rule.destination_port,
        source_port=rule.source_port,
        no_default=rule.no_default,
        owner=PROTOCOL,
        flags=flags,
    )


def _tolerating(codes: Collection[int], socket: Netlink, message: Request) -> None:
    try:
        socket.request([message])
    except LinkError as exc:
        if exc.errno not in codes:
            raise
