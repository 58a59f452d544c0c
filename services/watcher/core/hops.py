"""Routes that nobody could ever follow: without an address of their family, or by way of a next hop out of reach.

Only what the spec alone tells is judged: where ipam carves the prefixes, ipam judges.
"""

import ipaddress
from collections.abc import Iterable, Iterator

from schemas import intent, values
from services.watcher.core import limits
from services.watcher.core.fields import BadField

_Named = tuple[str, intent.Route]  # with its field


def check(
    ipam: intent.IpamSpec, routes: tuple[intent.Route, ...], policies: tuple[intent.Policy, ...]
) -> None:
    """Raises BadField."""
    own = [values.parse_prefix(each) for each in ipam.prefixes]
    if not own:
        return
    main = list(_named(routes, "routes"))
    of_policies = [
        each
        for at, policy in enumerate(policies)
        for each in _named(policy.routes, f"policies[{at}].routes")
    ]
    families = {prefix.version for prefix in own}
    for field, route in (*main, *of_policies):
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
