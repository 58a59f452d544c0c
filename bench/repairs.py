"""How soon what is broken is whole again, in a lab.

An interface that somebody damages, an endpoint that ends, a node that falls silent. Every time runs from right before
the harm until the product itself dates the cure: the time stamp of a repair (made when the kernel has it again; whole
milliseconds), or the commit of a status on the bus. All by one clock, on one machine.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from ipaddress import ip_interface
from typing import Any, Self

from nats.aio.msg import Msg

from bench.figures import Table, duration, median
from bench.hearing import committed, heard
from bench.journeys import INTERFACE, NAMESPACE
from lab.api.client import Client
from lab.api.kinds import PODS
from lab.layout import Layout, State
from lab.network import Network, Node
from schemas.annotation import ANNOTATION
from schemas.codec import decode
from schemas.grant import End
from schemas.reasons import PEER_SILENT
from schemas.state import EndStatus, Status
from services._node import links
from services._node.links import Netlink

_ROUNDS = 5
_GIVE_UP_SECONDS = 30.0

Damage = Callable[[Netlink, int, End], None]
Moment = tuple[Status, float]  # and when it was committed


def _down(inside: Netlink, index: int, _end: End) -> None:
    inside.request([links.link(links.NEWLINK, index=index, up=False)])


def _delete(inside: Netlink, index: int, _end: End) -> None:
    inside.request([links.link(links.DELLINK, index=index)])


def _shrink(inside: Netlink, index: int, _end: End) -> None:
    inside.request([links.link(links.NEWLINK, index=index, attrs=[("IFLA_MTU", 1300)])])


def _strip(inside: Netlink, index: int, end: End) -> None:
    inside.request([links.address(links.DELADDR, index=index, address=end.addresses[0])])


def _misroute(inside: Netlink, index: int, end: End) -> None:
    """The routes of an end lead to its peer, at least."""
    question = links.route(links.GETROUTE, index=index, family=links.family_of(end.addresses[0]))
    routes = [r.destination for r in inside.routes(question) if r.index == index]
    own = str(ip_interface(end.addresses[0]).ip)
    peer = next(route for route in routes if own not in route)
    inside.request([links.route(links.DELROUTE, index=index, destination=peer)])


DAMAGES: dict[str, Damage] = {
    "ip link set … down": _down,
    "ip link set … mtu": _shrink,
    "ip address del": _strip,
    "ip route del": _misroute,
    "ip link del": _delete,
}


async def tell(api: Client, layout: Layout, state: State, nodes: int) -> None:
    """Two clients on the first node; their endpoints are there and on the second one. Prints a table."""
    table = Table(repairs=34, median=9, worst=9, times=6)
    async with _Statuses.heard(state) as statuses:
        for name, service in (("near", "vpn"), ("far", "far")):
            await api.create(PODS, _client(name, service))
            await statuses.until(name, lambda s: _is_ready(s.client))
        for what, damage in DAMAGES.items():
            taken = [
                await _repaired(statuses, layout, name, damage)
                for _ in range(_ROUNDS)
                for name in ("near", "far")
            ]
            _row(table, what, taken)
        silent = [await _silent(statuses, layout, nodes) for _ in range(_ROUNDS)]
        _row(table, "a node is cut off: told", silent)
        moved = [each async for each in _moves(api, statuses, nodes - 1)]
        _row(table, "endpoint Pod ends: next is ready", moved)
        for name in ("near", "far"):
            await api.delete(PODS, NAMESPACE, name, grace_seconds=0)


def _row(table: Table, what: str, taken: list[float]) -> None:
    table.row(what, duration(median(taken)), duration(max(taken)), str(len(taken)))


async def _repaired(statuses: "_Statuses", layout: Layout, name: str, damage: Damage) -> float:
    status, _ = await statuses.until(name, lambda s: _is_ready(s.client))
    assert status.client is not None
    assert status.client.applied is not None
    path = layout.pod_dir(status.client.uid) / "netns"

    def harm() -> None:
        assert status.client is not None
        assert status.client.applied is not None
        with Netlink(path) as inside:
            found = inside.look_up(name=INTERFACE)
            assert found is not None
            damage(inside, found.index, status.client.applied.client)

    before, began = status.client.repaired, time.time()
    await asyncio.to_thread(harm)
    now, _ = await statuses.until(
        name, lambda s: _is_ready(s.client) and s.client is not None and s.client.repaired != before
    )
    assert now.client is not None
    return datetime.fromisoformat(now.client.repaired.split()[0]).timestamp() - began


async def _silent(statuses: "_Statuses", layout: Layout, nodes: int) -> float:
    """The second node's cable is pulled; what the client's node says of the peer."""
    network = Network(layout, tuple(Node(number=n) for n in range(1, nodes + 1)))
    cut = network.nodes[1]
    began = time.time()
    await asyncio.to_thread(network.set_node_link, cut, up=False)
    try:
        _, at = await statuses.until(
            "far", lambda s: s.client is not None and s.client.reason == PEER_SILENT
        )
    finally:
        await asyncio.to_thread(network.set_node_link, cut, up=True)
    await statuses.until("far", lambda s: _is_ready(s.client))
    return at - began


async def _moves(api: Client, statuses: "_Statuses", count: int) -> AsyncIterator[float]:
    """The endpoint's Pods end one after the other, that of the client's node first."""
    for _ in range(count):
        status, _ = await statuses.until("near", lambda s: _is_ready(s.client))
        assert status.client is not None
        assert status.client.applied is not None
        ended = status.client.applied.server.pod.name
        asked = time.time()
        await api.delete(PODS, NAMESPACE, ended, grace_seconds=0)
        _, at = await statuses.until("near", _is_ready_without(ended))
        yield at - asked


def _is_ready_without(ended: str) -> Callable[[Status], bool]:
    def holds(status: Status) -> bool:
        end = status.client
        applied = end.applied if end is not None and _is_ready(end) else None
        return applied is not None and applied.server.pod.name != ended

    return holds


def _is_ready(end: EndStatus | None) -> bool:
    return end is not None and end.state == "ready"


def _client(name: str, service: str) -> dict[str, Any]:
    annotation = {ANNOTATION: f"{service}/{INTERFACE}"}
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotation},
        "spec": {"nodeName": "node1", "containers": [{"name": "app", "image": "none"}]},
    }


class _Statuses:
    """What the first node says of the clients there."""

    def __init__(self) -> None:
        self._newest: dict[str, Moment] = {}
        self._changed = asyncio.Condition()

    @classmethod
    @asynccontextmanager
    async def heard(cls, state: State) -> AsyncIterator[Self]:
        statuses = cls()
        async with heard(state.nats_url, statuses._hear, name="nsm-bench-repairs"):
            yield statuses

    async def until(self, name: str, holds: Callable[[Status], bool]) -> Moment:
        """The first status of a Pod's connection that is as wanted, from now on or the newest."""

        def found() -> Moment | None:
            moment = self._newest.get(name)
            return moment if moment is not None and holds(moment[0]) else None

        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS), self._changed:
                return await self._changed.wait_for(found) or self._newest[name]
        except TimeoutError:
            last = self._newest.get(name)
            raise AssertionError(f"{name}: not within {_GIVE_UP_SECONDS:g} s; {last}") from None

    async def _hear(self, message: Msg) -> None:
        key, body = decode(message.subject, message.data)
        if isinstance(body, Status) and (body.node, body.namespace) == ("node1", NAMESPACE):
            async with self._changed:
                self._newest[key.pod] = body, committed(message)
                self._changed.notify_all()
