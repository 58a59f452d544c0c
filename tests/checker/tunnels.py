"""Across nodes each connection has a VNI of its own, and both nodes' addresses; on one node it has none."""

from collections import defaultdict
from collections.abc import Iterator

from schemas.subjects import NodeKey
from tests.checker.picture import Picture, name
from tests.checker.spans import network

TUNNEL = "vxlan"
OVERHEAD = {4: 50, 6: 70}


def shared_tunnels(picture: Picture) -> Iterator[str]:
    """A VNI belongs to one connection, and to none that a node still has."""
    owners: dict[int, set[str]] = defaultdict(set)
    for connection in picture.grants():
        if connection.vni:
            owners[connection.vni].add(name(connection))
    for status in picture.statuses.values():
        for end in (status.client, status.server):
            vni = end.applied.vni if end is not None and end.applied is not None else 0
            if vni and end is not None and end.applied is not None and vni in owners:
                owners[vni].add(name(end.applied))
    for vni, labels in owners.items():
        if len(labels) > 1:
            yield f"VNI {vni} belongs to {' and '.join(sorted(labels))}"


def mechanisms(picture: Picture) -> Iterator[str]:
    """veth on one node, vxlan between two; MTU and tunnel ends as the nodes' facts say."""
    for connection in picture.grants():
        label = name(connection)
        client, server = connection.client, connection.server
        facts = [picture.facts.get(NodeKey(end.pod.node)) for end in (client, server)]
        if client.pod.node == server.pod.node:
            if connection.mechanism != "veth" or connection.vni:
                yield f"{label}: {connection.mechanism}, VNI {connection.vni} on one node"
            if facts[0] is not None and connection.mtu != facts[0].mtu:
                yield f"{label}: MTU {connection.mtu}, its node says {facts[0].mtu}"
            continue
        if connection.mechanism != TUNNEL or not 1 <= connection.vni < 1 << 24:
            yield f"{label}: {connection.mechanism}, VNI {connection.vni} across nodes"
        # A node that has no tunnels any more keeps those it has as they are.
        if any(told is not None and TUNNEL not in told.mechanisms for told in facts):
            continue
        for end, told in zip((client, server), facts, strict=True):
            if told is None or not end.underlay or told.underlay_address != end.underlay:
                yield f"{label}: tunnel end {end.underlay!r} is not that of {end.pod.node}"
        if client.underlay and facts[0] is not None and facts[1] is not None:
            mtu = min(facts[0].mtu, facts[1].mtu) - OVERHEAD[network(client.underlay).version]
            if connection.mtu != mtu:
                yield f"{label}: MTU {connection.mtu}, {mtu} fits"
