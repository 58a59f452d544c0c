"""Routes that nobody could ever follow: without an address of their family, or by way of a next hop out of reach.

Next hops are nobody's to have: ipam is told to leave them out. Only what the spec alone tells is judged: where ipam
carves the prefixes, ipam judges.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec

from schemas import intent, values
from services.watcher.core import limits
from services.watcher.core.fields import BadField

_Named = tuple[str, intent.Route]  # with its field


def check(
    ipam: intent.IpamSpec, routes: tuple[intent.Route, ...], policies: tuple[intent.Policy, ...]
) -> None:
    """Raises BadField."""
    main = list(_named(routes, "routes"))
    of_policies = [
        list(_named(policy.routes, f"policies[{at}].routes")) for at, policy in enumerate(policies)
    ]
    for table in (main, *of_policies):
        _check_destinations(table)
    own = [values.parse_prefix(each) for each in ipam.prefixes]
    if not own:
        return
    families = {prefix.version for prefix in own}
    for field, route in chain(main, *of_policies):
        version = values.parse_prefix(route.destination).version
        if version not in families:
            raise BadField(
                f"{field}.destination",
                f"{route.destination!r} cannot be reached without an IPv{version} prefix",
                "add one to ipam.prefixes",
            )
    for field, route in main:
        if route.next_hop and not _is_reached(route, own, routes):
            raise BadField(
                f"{field}.nextHop",
                f"{route.next_hop!r} lies neither in ipam.prefixes nor behind another route",
                "write an address that clients reach through the endpoint, or leave it out",
            )


def kept(
    ipam: intent.IpamSpec, routes: tuple[intent.Route, ...], policies: tuple[intent.Policy, ...]
) -> intent.IpamSpec:
    """`ipam` without the next hops: somebody behind the endpoint has them, so no client may."""
    via = {each.next_hop for each in chain(routes, *(policy.routes for policy in policies))}
    own = [values.parse_prefix(each) for each in ipam.prefixes]
    hops = sorted(
        (hop.version, hop)
        for hop in map(ipaddress.ip_address, filter(None, via))
        for prefix in own
        if hop in prefix and not (ipam.addressing == "shared" and hop == _first_usable(prefix))
    )
    found = dict.fromkeys(f"{hop}/{hop.max_prefixlen}" for _, hop in hops)
    return msgspec.structs.replace(
        ipam, exclude_prefixes=tuple(dict.fromkeys((*ipam.exclude_prefixes, *found)))
    )


def _first_usable(prefix: values.Prefix) -> values.Address:
    """The endpoint's own, with `shared`."""
    return prefix[0] if prefix.num_addresses <= 2 else prefix[1]


def _check_destinations(table: list[_Named]) -> None:
    found: dict[str, intent.Route] = {}
    for field, route in table:
        if found.setdefault(route.destination, route) != route:
            raise BadField(
                f"{field}.destination",
                f"{route.destination} is there already, with another nextHop",
                "write each destination once",
            )


def next_hop(text: str) -> values.Address:
    """An address that a route may lead to. Raises ValueError."""
    address = ipaddress.ip_address(text)
    if not address.is_link_local:
        limits.destination(f"{address}/{address.max_prefixlen}")
    return address


def _named(routes: Iterable[intent.Route], field: str) -> Iterator[_Named]:
    return ((f"{field}[{at}]", route) for at, route in enumerate(routes))


def _is_reached(
    route: intent.Route, own: Iterable[values.Prefix], routes: Iterable[intent.Route]
) -> bool:
    hop = ipaddress.ip_address(route.next_hop)
    behind = (
        values.parse_prefix(other.destination)
        for other in routes
        if not other.next_hop and other.destination != route.destination
    )
    return any(
        hop in prefix
        for prefix in (*own, *(each for each in behind if each.prefixlen))
        if prefix.version == hop.version
    )
