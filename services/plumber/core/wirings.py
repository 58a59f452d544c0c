"""From a grant to a wiring, or to the reasons why there can be none now."""

import hashlib
from collections.abc import Collection, Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network

from schemas import grant as grants
from schemas.intent import Policy
from schemas.intent import Route as GrantedRoute
from schemas.subjects import ConnectionKey
from services.plumber import model
from services.plumber.core import lookups
from services.plumber.model import Blocked, End, Place, Tunnel, Waiting, Wiring

_Interface = IPv4Interface | IPv6Interface

VETH, TUNNEL = "veth", "vxlan"  # mechanisms
CLUSTER_UNKNOWN = "ClusterPrefixesUnknown"

_NO_NETWORK = "PodNetworkNotFound"
_MOST_VNI = (1 << 24) - 1


def tag(key: ConnectionKey) -> str:
    """The short name of a connection in the kernel and in the runtime directory."""
    return hashlib.sha256(key.subject.encode()).hexdigest()[:16]


def judge(
    grant: grants.Connection,
    *,
    node: str,
    places: Mapping[str, Place],
    ended: Collection[str],
    cluster: Collection[str] | None = None,
) -> Wiring | Waiting:
    """How the connection shall be wired on `node`, or why it cannot be now.

    `places` are the networks found, by Pod uid; `ended` the uids whose network was there and is gone;
    `cluster` the prefixes that stay on the CNI, None while nobody knows them.
    """
    here = [end for end in (grant.client, grant.server) if end.is_on(node)]
    if not here or grant.mechanism != (VETH if len(here) == 2 else TUNNEL):
        return _not_supported(grant, node)
    client, server = places.get(grant.client.pod.uid), places.get(grant.server.pod.uid)
    if any(end.pod.uid not in places for end in here):
        return _missing(grant, client, server, ended)
    try:
        made = wiring(
            grant,
            client if grant.client in here else None,
            server if grant.server in here else None,
            cluster=cluster or (),
        )
    except ValueError as exc:
        return _both("failed", "BadGrant", f"the grant is unusable: {exc}")
    if cluster is None and made.client is not None and _has_default(grant):
        return _both("pending", CLUSTER_UNKNOWN, _UNKNOWN_TEXT)
    return made


def wiring(
    grant: grants.Connection,
    client: Place | None,
    server: Place | None,
    *,
    cluster: Collection[str] = (),
) -> Wiring:
    """The ends that are on this node, complete. Raises ValueError for what is no address or prefix."""
    ours, theirs = ([ip_interface(a) for a in e.addresses] for e in (grant.client, grant.server))
    at_client, at_server = _Ends(ours, theirs), _Ends(theirs, ours)
    return Wiring(
        tag=tag(grant.key),
        revision=grant.revision,
        mtu=grant.mtu,
        client=_client(grant, client, at_client, cluster) if client else None,
        server=_server(grant, server, at_server) if server else None,
        tunnel=_tunnel(grant, is_client=client is not None) if grant.mechanism == TUNNEL else None,
    )


_UNKNOWN_TEXT = (
    "the endpoint gives a default route, and which prefixes the cluster uses is not known yet: "
    "ipam tells them once it leads"
)


def _not_supported(grant: grants.Connection, node: str) -> Waiting:
    ends = f"{grant.client.pod.node} and {grant.server.pod.node}"
    return _both(
        "failed",
        "RemoteNotSupported",
        f"mechanism {grant.mechanism!r} between nodes {ends} is not supported by the plumber of {node}; "
        "place client and endpoint on the same node",
    )


def _both(state: str, reason: str, message: str) -> Waiting:
    blocked = Blocked(state=state, reason=reason, message=message)
    return Waiting(client=blocked, server=blocked)


def _missing(
    grant: grants.Connection, client: Place | None, server: Place | None, ended: Collection[str]
) -> Waiting:
    def absent(end: grants.End) -> Blocked:
        pod = f"{end.pod.namespace}/{end.pod.name}"
        gone = "is gone" if end.pod.uid in ended else "was not found yet"
        return Blocked(
            state="pending", reason=_NO_NETWORK, message=f"the network of Pod {pod} {gone}"
        )

    def waits_for(end: grants.End, *, is_server: bool) -> Blocked:
        blocked = absent(end)
        gone = is_server and end.pod.uid in ended
        return Blocked(
            state="pending",
            reason="EndpointPodGone" if gone else "PeerNotReady",
            message=blocked.message,
        )

    return Waiting(
        client=absent(grant.client) if client is None else waits_for(grant.server, is_server=True),
        server=absent(grant.server) if server is None else waits_for(grant.client, is_server=False),
    )


def _has_default(grant: grants.Connection) -> bool:
    return any(map(lookups.is_default, grant.client.routes))


def _tunnel(grant: grants.Connection, *, is_client: bool) -> Tunnel:
    own, peer = (grant.client, grant.server) if is_client else (grant.server, grant.client)
    if not 0 < grant.vni <= _MOST_VNI:
        raise ValueError(f"{grant.vni} is no VNI")
    local, remote = ip_address(own.underlay), ip_address(peer.underlay)
    if local.version != remote.version:
        raise ValueError(f"underlay {local} cannot reach {remote}: another family")
    return Tunnel(vni=grant.vni, local=str(local), remote=str(remote))


class _Ends:
    """Addresses of one end and of its peer, by family; the first of each counts."""

    def __init__(self, own: list[_Interface], peer: list[_Interface]) -> None:
        self.ours = own
        self.theirs = [each.ip for each in peer]
        self.sources: dict[int, str] = {each.version: str(each.ip) for each in reversed(own)}
        self.peers: dict[int, str] = {each.version: str(each) for each in reversed(self.theirs)}

    def routes(self, granted: Collection[GrantedRoute]) -> dict[str, model.Route]:
        """By destination: the peer's addresses, then what was granted."""
        hosts = {f"{each}/{each.max_prefixlen}": each.version for each in self.theirs}
        routes = {
            host: model.Route(destination=host, source=self.sources.get(family, ""))
            for host, family in hosts.items()
        }
        for each in granted:
            route = self.route(each)
            routes.setdefault(route.destination, route)
        return routes

    def route(self, granted: GrantedRoute) -> model.Route:
        destination = ip_network(granted.destination)
        hop = str(ip_address(granted.next_hop)) if granted.next_hop else ""
        return model.Route(
            destination=str(destination),
            gateway=hop or self.peers.get(destination.version, ""),
            source=self.sources.get(destination.version, ""),
        )

    def asks(self) -> tuple[str, str]:
        for family in (4, 6):
            if family in self.sources and family in self.peers:
                return self.sources[family], self.peers[family]
        return "", ""


def _client(grant: grants.Connection, place: Place, ends: _Ends, cluster: Collection[str]) -> End:
    defaults = [ends.route(r) for r in grant.client.routes if lookups.is_default(r)]
    found = {
        *lookups.default_lookups(defaults, cluster),
        *lookups.policy_lookups(grant.policies, sources=ends.sources, peers=ends.peers),
    }
    routes = ends.routes([r for r in grant.client.routes if not lookups.is_default(r)])
    ours = {*map(str, ends.ours), *_sources(grant.policies)}
    return End(
        place=place,
        interface=grant.client.interface,
        mac=grant.client.mac.lower(),
        addresses=frozenset(ours),
        routes=frozenset(routes.values()),
        neighbours=_neighbours(
            grant,
            grant.server,
            ends,
            {*routes.values(), *(r for each in found for r in each.routes)},
        ),
        lookups=frozenset(found),
        asks=ends.asks(),
    )


def _server(grant: grants.Connection, place: Place, ends: _Ends) -> End:
    routes = ends.routes(grant.server.routes)
    on_link = any(
        route.destination.find(":") < 0 and not route.gateway
        for lookup in lookups.policy_lookups(grant.policies, sources=ends.peers, peers={})
        for route in lookup.routes
    )
    return End(
        place=place,
        interface=grant.server.interface,
        mac=grant.server.mac.lower(),
        addresses=frozenset(map(str, ends.ours)),
        routes=frozenset(routes.values()),
        neighbours=_neighbours(grant, grant.client, ends, set(routes.values())),
        answers_for_all=on_link and grant.payload == "IP",
        asks=ends.asks(),
    )


def _sources(policies: Collection[Policy]) -> set[str]:
    addresses = {lookups.own_source(policy) for policy in policies} - {""}
    return {str(ip_interface(address)) for address in addresses}


def _neighbours(
    grant: grants.Connection, peer: grants.End, ends: _Ends, routes: Collection[model.Route]
) -> frozenset[model.Neighbour]:
    """Everything that is sent through the link at all is for the peer's MAC. ETHERNET asks for itself."""
    if grant.payload != "IP":
        return frozenset()
    addresses = set(map(str, ends.theirs)) | {route.gateway for route in routes if route.gateway}
    return frozenset(
        model.Neighbour(address=address, mac=peer.mac.lower()) for address in addresses
    )
