"""Specs of our own kinds: what they mean, or one Problem that names field, reason and remedy.

What may be written is in `forms`; how fields may be spelled, the anchor's way too, in `fields`.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from schemas import intent, values
from services.watcher.core import domains, fields, forms, hops, limits, selectors
from services.watcher.core.fields import BadField
from services.watcher.model import NetworkService, NetworkServiceEndpoint, OurObject, Problem

INVALID = "InvalidSpec"
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_PROTOCOLS = ("", "tcp", "udp", "sctp", "icmp", "ipv6-icmp")


class EndpointSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What every endpoint Pod of one NetworkServiceEndpoint offers."""

    network_services: tuple[str, ...]
    selector: forms.Selector
    labels: dict[str, str]
    ipam: intent.IpamSpec
    routes: tuple[intent.Route, ...]
    policies: tuple[intent.Policy, ...]
    dns: intent.Dns | None


def read_endpoint(found: NetworkServiceEndpoint) -> EndpointSpec | Problem:
    """What a NetworkServiceEndpoint says."""
    try:
        return _endpoint(forms.ENDPOINTS.read(found.spec))
    except BadField as exc:
        return _invalid(found, exc)


def read_network_service(found: NetworkService) -> intent.NetworkService | Problem:
    """What a NetworkService says."""
    try:
        spec = forms.NETWORK_SERVICES.read(found.spec)
        return _network_service(found, spec)
    except BadField as exc:
        return _invalid(found, exc)


def names_in(spec: Any) -> tuple[str, ...]:
    """The network services that a spec names, as far as it can be read at all."""
    for written, value in spec.items() if isinstance(spec, dict) else ():
        if fields.our_name(written) == "networkServices" and isinstance(value, list):
            return tuple(each for each in value if isinstance(each, str))
    return ()


def _invalid(found: OurObject, exc: BadField) -> Problem:
    # A first version has no earlier one.
    rest = (
        ""
        if found.metadata.generation == 1
        else "; what an earlier, valid version published, stays"
    )
    return Problem(
        reason=INVALID,
        message=f"{type(found).__name__} {'/'.join(found.ref)} has no effect as it is written{rest}: {exc}",
    )


def _endpoint(spec: forms.Endpoint) -> EndpointSpec:
    names = spec.network_services or ()
    if not names:
        raise BadField("networkServices", "it is empty", "name at least one network service")
    for at, name in enumerate(names):
        if not values.is_object_name(name) or len(name) > 63:
            raise BadField(
                f"networkServices[{at}]",
                f"{name!r} is no network service name",
                values.NETWORK_SERVICE_REMEDY,
            )
    limits.no_more(len(names), limits.MOST_NAMES, "networkServices", "network services")
    _check_sizes(spec)
    if spec.pod_selector is None:
        raise BadField("podSelector", "it is missing", "write podSelector: {matchLabels: {…}}")
    selectors.check_selector(spec.pod_selector)
    ipam = _ipam(spec.ipam or forms.Ipam())
    routes = _routes(spec.routes, "routes")
    policies = tuple(
        _policy(each, f"policies[{at}]") for at, each in enumerate(spec.policies or ())
    )
    hops.check(ipam, routes, policies)
    return EndpointSpec(
        network_services=names,
        selector=spec.pod_selector,
        labels=_labels(spec),
        ipam=hops.kept(ipam, routes, policies),
        routes=routes,
        policies=policies,
        dns=_dns(spec.dns) if spec.dns is not None else None,
    )


def _check_sizes(spec: forms.Endpoint) -> None:
    policies = spec.policies or ()
    limits.no_more(len(policies), limits.MOST_POLICIES, "policies", "policies")
    routes = len(spec.routes or ())
    limits.no_more(routes, limits.MOST_ROUTES, "routes", "routes")
    routes += sum(len(each.routes or ()) for each in policies)
    limits.no_more(routes, limits.MOST_ROUTES, "policies", "routes together with spec.routes")


def _labels(spec: forms.Endpoint) -> dict[str, str]:
    labels = dict(spec.labels or {})
    selectors.check_labels(labels, "labels")
    for name, of_service in (spec.network_service_labels or {}).items():
        selectors.check_labels(of_service.labels or {}, f"networkServiceLabels[{name}].labels")
        for key, value in (of_service.labels or {}).items():
            if labels.setdefault(key, value) != value:
                raise BadField(
                    f"networkServiceLabels[{name}].labels[{key}]",
                    f"{value!r} differs from {labels[key]!r} given elsewhere",
                    "write one NetworkServiceEndpoint per set of labels",
                )
    return labels


def _ipam(spec: forms.Ipam) -> intent.IpamSpec:
    addressing = spec.addressing or "shared"
    if addressing not in ("shared", "pointToPoint"):
        raise BadField(
            "ipam.addressing", f"{addressing!r} is unknown", "write shared or pointToPoint"
        )
    limits.no_more(len(spec.prefixes or ()), limits.MOST_PREFIXES, "ipam.prefixes", "prefixes")
    limits.no_more(
        len(spec.exclude_prefixes or ()), limits.MOST_PREFIXES, "ipam.excludePrefixes", "prefixes"
    )
    return intent.IpamSpec(
        prefixes=_each(
            spec.prefixes,
            "ipam.prefixes",
            limits.pool_prefix,
            "write a prefix such as 172.16.1.0/24",
        ),
        exclude_prefixes=_each(
            spec.exclude_prefixes,
            "ipam.excludePrefixes",
            values.parse_prefix_or_address,
            "write a prefix such as 172.16.1.8/29",
        ),
        addressing=addressing,
    )


def _each(
    texts: Iterable[str] | None, field: str, parse: Callable[[str], object], remedy: str
) -> tuple[str, ...]:
    return tuple(
        str(_checked(text, f"{field}[{at}]", parse, remedy)) for at, text in enumerate(texts or ())
    )


def _checked(text: str, field: str, parse: Callable[[str], object], remedy: str) -> object:
    try:
        return parse(text)
    except ValueError as exc:
        raise BadField(field, str(exc), _remedy(text, parse, remedy)) from exc


def _remedy(text: str, parse: Callable[[str], object], example: str) -> str:
    """The prefix that was probably meant, where only its host bits or its length are wrong."""
    try:
        meant = ipaddress.ip_network(text.strip(), strict=False)
        parse(str(meant))
        if "/" in text:
            return f"write {meant}"
        wider = meant.supernet(new_prefix=24 if meant.version == 4 else 64)
    except ValueError:
        return example
    return f"write {meant} for this address alone, or a network such as {wider}"


def _routes(routes: tuple[forms.Route, ...] | None, field: str) -> tuple[intent.Route, ...]:
    return tuple(_route(each, f"{field}[{at}]") for at, each in enumerate(routes or ()))


def _route(route: forms.Route, field: str) -> intent.Route:
    to = _checked(
        route.destination,
        f"{field}.destination",
        limits.destination,
        "write a prefix such as 10.20.0.0/16",
    )
    via = ""
    if route.next_hop:
        hop = _checked(
            route.next_hop, f"{field}.nextHop", hops.next_hop, "write an address such as 172.16.3.1"
        )
        if getattr(hop, "version", 0) != getattr(to, "version", 0):
            raise BadField(
                f"{field}.nextHop",
                f"{route.next_hop!r} is of another family than {route.destination!r}",
                "write both as IPv4 or both as IPv6",
            )
        via = str(hop)
    return intent.Route(destination=str(to), next_hop=via)


def _policy(policy: forms.Policy, field: str) -> intent.Policy:
    protocol = (policy.protocol or "").lower()
    if protocol not in _PROTOCOLS:
        raise BadField(
            f"{field}.protocol",
            f"{policy.protocol!r} is unknown",
            f"write one of {', '.join(_PROTOCOLS[1:])}, or leave it out",
        )
    source = ""
    if policy.source:
        source = str(
            _checked(
                policy.source,
                f"{field}.from",
                limits.destination,
                "write a prefix such as 172.16.2.201/32",
            )
        )
    return intent.Policy(
        source=source,
        protocol=protocol,
        destination_port=_ports(policy.destination_port, f"{field}.destinationPort"),
        source_port=_ports(policy.source_port, f"{field}.sourcePort"),
        routes=_routes(policy.routes, f"{field}.routes"),
    )


def _ports(text: forms.Text | None, field: str) -> str:
    written = "" if text is None else str(text)
    if not written:
        return ""
    found = _PORTS.fullmatch(written)
    bounds = [int(each) for each in found.groups() if each] if found else []
    if not bounds or bounds[0] > bounds[-1] or not all(1 <= each <= 65535 for each in bounds):
        raise BadField(field, f"{written!r} is no port or range", 'write "6666" or "6667-6670"')
    return written


def _dns(spec: forms.Dns) -> intent.Dns:
    return intent.Dns(
        servers=_each(
            spec.servers, "dns.servers", limits.server, "write an address such as 172.16.1.1"
        ),
        domains=domains.read(spec.domains, "dns.domains"),
        search_domains=domains.read(spec.search_domains, "dns.searchDomains"),
    )


def _network_service(found: NetworkService, spec: forms.NetworkService) -> intent.NetworkService:
    payload = (spec.payload or "IP").upper()
    if payload not in ("IP", "ETHERNET"):
        raise BadField("payload", f"{spec.payload!r} is unknown", "write IP or ETHERNET")
    allowed = spec.allowed_namespaces or ()
    selectors.check_patterns(allowed, "allowedNamespaces")
    return intent.NetworkService(
        namespace=found.metadata.namespace,
        name=found.metadata.name,
        payload=payload,
        matches=tuple(_match(each, f"matches[{at}]") for at, each in enumerate(spec.matches or ())),
        allowed_namespaces=allowed,
    )


def _match(match: forms.Match, field: str) -> intent.Match:
    source = match.source_selector or {}
    selectors.check_labels(source, f"{field}.sourceSelector")
    return intent.Match(
        source_selector=source,
        routes=tuple(
            _destination(each, f"{field}.routes[{at}]")
            for at, each in enumerate(match.routes or ())
        ),
        fallthrough=bool(match.fallthrough),
    )


def _destination(route: forms.Destination, field: str) -> intent.Destination:
    selector = route.destination_selector or {}
    selectors.check_labels(selector, f"{field}.destinationSelector")
    return intent.Destination(
        destination_selector=selector, weight=1 if route.weight is None else route.weight
    )
