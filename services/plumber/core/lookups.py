"""Tables and rules of a client: an endpoint's policies, and default routes beside the CNI's.

Each has a table of its own and a rule that leads to it, so nothing of the CNI's main table is ever changed.
The rules of a Pod, in this order:

    10000…  a policy's match        → its table
    20000   from an address of the Pod (replies to what arrived over the CNI)  → main
    20001   anything                → main, but not for its default route
    20002   anything                → the table of the default route, which yields for the cluster's prefixes
    32766   (the kernel's)          → main
"""

from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_address, ip_network

import msgspec

from schemas.intent import Policy
from schemas.intent import Route as GrantedRoute
from services.plumber.model import (
    DEFAULT,
    MAIN,
    POLICIES,
    REPLIES,
    SPECIFIC,
    Found,
    Lookup,
    Route,
    Rule,
)

_EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}


def is_default(route: GrantedRoute) -> bool:
    return ip_network(route.destination).prefixlen == 0


def default_lookups(routes: Collection[Route], cluster: Collection[str]) -> Iterator[Lookup]:
    """Tables of default routes. What the cluster uses is looked up elsewhere: on the CNI."""
    for route in routes:
        family = ip_network(route.destination).version
        yielding = {
            Route(destination=str(prefix), yields=True)
            for prefix in map(ip_network, cluster)
            if prefix.version == family and prefix.prefixlen
        }
        yield Lookup(
            rule=Rule(family=family, priority=DEFAULT), routes=frozenset({route, *yielding})
        )


def policy_lookups(
    policies: Collection[Policy], *, sources: Mapping[int, str], peers: Mapping[int, str]
) -> Iterator[Lookup]:
    """A table per policy and family. `sources` and `peers` are the ends' addresses by family."""
    for at, policy in enumerate(policies):
        for family in _families(policy, sources):
            rule = Rule(
                family=family,
                priority=POLICIES + at,
                source=str(ip_network(policy.source)) if policy.source else "",
                protocol=policy.protocol,
                destination_port=policy.destination_port,
                source_port=policy.source_port,
            )
            source = own_source(policy) or sources.get(family, "")
            routes = _routes(policy, family, source=source, peer=peers.get(family, ""))
            one_each = {route.destination: route for route in routes}
            if one_each:
                yield Lookup(rule=rule, routes=frozenset(one_each.values()))


def own_source(policy: Policy) -> str:
    """The address that a policy is about, if it is about one: the client has it, to send from."""
    if not policy.source:
        return ""
    network = ip_network(policy.source)
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else ""


def changes(wanted: Collection[Lookup], stands: Found) -> dict[str, tuple[object, ...]]:
    """The fields of an adjustment. Tables are known by their rules, whatever number they got."""
    found: dict[Rule, Lookup] = {}
    for lookup in sorted(stands.lookups, key=lambda each: each.rule.table):
        found.setdefault(_unnumbered(lookup.rule), lookup)
    by_rule = {lookup.rule: lookup for lookup in wanted}
    kept = {rule: lookup for rule, lookup in found.items() if rule in by_rule}
    rules = keeping(wanted, stands.held)
    families = {rule.family for rule in rules}
    return {
        "add_lookups": _sorted(each for each in wanted if each.rule not in kept),
        "change_lookups": tuple(
            (lookup, by_rule[rule])
            for rule, lookup in sorted(kept.items())
            if lookup.routes != by_rule[rule].routes
        ),
        "drop_lookups": _sorted(stands.lookups - set(kept.values())),
        "add_rules": tuple(sorted(rules - stands.kept)),
        "drop_rules": tuple(
            sorted(rule for rule in stands.kept - rules if rule.family in families)
        ),
    }


def keeping(lookups: Collection[Lookup], held: Collection[str]) -> frozenset[Rule]:
    """The rules that keep on the CNI what belongs there, beside default routes. `held`: the Pod's addresses."""
    families = {lookup.rule.family for lookup in lookups if lookup.rule.priority == DEFAULT}
    replies = {
        Rule(family=host.version, priority=REPLIES, table=MAIN, source=str(host))
        for host in map(ip_network, held)
        if host.version in families
    }
    specific = {
        Rule(family=family, priority=SPECIFIC, table=MAIN, no_default=True) for family in families
    }
    return frozenset(replies | specific)


def _families(policy: Policy, sources: Mapping[int, str]) -> list[int]:
    if policy.source:
        return [ip_network(policy.source).version]
    named = {ip_network(route.destination).version for route in policy.routes}
    return sorted(named or sources.keys())


def _routes(policy: Policy, family: int, *, source: str, peer: str) -> Iterator[Route]:
    for granted in policy.routes or (GrantedRoute(destination=_EVERYTHING[family]),):
        destination = ip_network(granted.destination)
        if destination.version != family:
            continue
        hop = str(ip_address(granted.next_hop)) if granted.next_hop else ""
        # IPv4 without a next hop is on the link, as people who know such policies expect to see it: the peer
        # answers ARP for everything it forwards. For IPv6 nobody can answer so, and the peer is the next hop.
        gateway = hop or (peer if family == 6 else "")
        yield Route(destination=str(destination), gateway=gateway, source=source)


def _unnumbered(rule: Rule) -> Rule:
    return msgspec.structs.replace(rule, table=0)


def _sorted(lookups: Collection[Lookup] | Iterator[Lookup]) -> tuple[Lookup, ...]:
    return tuple(sorted(lookups, key=lambda each: each.rule))
