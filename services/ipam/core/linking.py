"""How a connection is made: a veth pair on one node, a tunnel across two. Both nodes have to say that they can."""

import ipaddress
from collections.abc import Mapping

import msgspec

from schemas.grant import Connection
from schemas.intent import PodRef
from schemas.state import NodeFacts
from schemas.subjects import RequestKey

VNIS = (1 << 24) - 1  # 1 to this
TUNNEL = "vxlan"
# Outer Ethernet is not counted in an MTU: IP 20 or 40, UDP 8, VXLAN 8, inner Ethernet 14.
OVERHEAD = {4: 50, 6: 70}
USUAL_MTU = 1500  # where a node tells none
LEAST_MTU = 1280  # that IPv6 works with


class Link(msgspec.Struct, frozen=True):
    """What both nodes have to know about the wire."""

    mechanism: str
    mtu: int
    vni: int = 0
    client_underlay: str = ""
    server_underlay: str = ""


class Vnis:
    """Numbers of tunnels, unique in the cluster. The next one up, so that a number just given back rests."""

    def __init__(self) -> None:
        self._owners: dict[int, dict[RequestKey, int]] = {}
        self._after = 0

    def next(self) -> int | None:
        """The number a new tunnel gets; None if there is none. Not taken by asking."""
        if len(self._owners) >= VNIS:
            return None
        vni = self._after
        while True:
            vni = vni % VNIS + 1
            if vni not in self._owners:
                return vni

    def take(self, vni: int, owner: RequestKey) -> None:
        owners = self._owners.setdefault(vni, {})
        if not owners:
            self._after = max(vni, self._after) if self._after < VNIS else vni
        owners[owner] = owners.get(owner, 0) + 1

    def give_back(self, vni: int, owner: RequestKey) -> None:
        owners = self._owners[vni]
        owners[owner] -= 1
        if not owners[owner]:
            del owners[owner]
        if not owners:
            del self._owners[vni]

    def is_free_for(self, vni: int, owner: RequestKey) -> bool:
        return not self._owners.get(vni, {}).keys() - {owner}


def link(
    facts: Mapping[str, NodeFacts],
    vnis: Vnis,
    client: PodRef,
    server: PodRef,
    *,
    owner: RequestKey,
    standing: Connection | None,
) -> Link | str:
    """The wire between two Pods, or why there is none.

    `standing`: what they have now. It stays when a node falls silent or says less, and follows what it says more.
    """
    if client.node == server.node:
        return _local(facts.get(client.node), standing)
    ends = (client.node, server.node)
    is_standing = standing is not None and standing.mechanism == TUNNEL
    problem = _lack(facts, *ends)
    if problem is not None:
        return _as_it_is(standing) if standing is not None and is_standing else problem
    one, other = (facts[node] for node in ends)
    family = ipaddress.ip_address(one.underlay_address).version
    vni = standing.vni if standing is not None and is_standing else 0
    if not vni or not vnis.is_free_for(vni, owner):
        vni = vnis.next() or 0
    if not vni:
        return f"needs a tunnel, and all {VNIS} numbers of tunnels are taken"
    return Link(
        TUNNEL,
        min(one.mtu or USUAL_MTU, other.mtu or USUAL_MTU) - OVERHEAD[family],
        vni,
        one.underlay_address,
        other.underlay_address,
    )


def _local(facts: NodeFacts | None, standing: Connection | None) -> Link:
    known = facts.mtu if facts is not None else None
    kept = standing.mtu if standing is not None and standing.mechanism == "veth" else None
    return Link(
        "veth", max(known or kept or USUAL_MTU, LEAST_MTU)
    )  # the underlay does not carry it


def _as_it_is(standing: Connection) -> Link:
    return Link(
        standing.mechanism,
        standing.mtu,
        standing.vni,
        standing.client.underlay,
        standing.server.underlay,
    )


def _lack(facts: Mapping[str, NodeFacts], client: str, server: str) -> str | None:
    """What hinders a tunnel, and on which node."""
    where = f"is on node {server}, the client on node {client}: "
    families = set()
    for node in (client, server):
        said = facts.get(node)
        if said is None:
            return f"{where}node {node} has not told what it can do"
        if TUNNEL not in said.mechanisms:
            return f"{where}node {node} cannot make a {TUNNEL} tunnel"
        if not said.underlay_address:
            return f"{where}node {node} tells no address for tunnels"
        try:
            families.add(ipaddress.ip_address(said.underlay_address).version)
        except ValueError:
            return f"{where}node {node} tells {said.underlay_address!r} as its address for tunnels"
    if len(families) > 1:
        return f"{where}one has an IPv4 address for tunnels, the other an IPv6 one"
    return None
