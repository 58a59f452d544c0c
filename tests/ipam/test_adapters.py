"""What is written, where, and in which order."""

from typing import Any

import msgspec

from schemas.codec import Tombstone
from schemas.subjects import Key
from services.ipam.adapters import Store
from services.ipam.model import Writes, per_node
from tests.builders import a_connection, a_pod, a_refusal, an_end


class FakeWriter:
    """Remembers what a term would write."""

    def __init__(self) -> None:
        self.written: list[tuple[Key, Any]] = []

    async def publish(self, message: Any, /) -> int:
        self.written.append((message.key, message))
        return len(self.written)

    async def bury(self, key: Key, /, tombstone: Tombstone = Tombstone()) -> int:  # noqa: B008
        self.written.append((key, tombstone))
        return len(self.written)


SERVER = msgspec.structs.replace(
    an_end("gateway", "nse-1", addresses=("10.9.0.1/32",)), pod=a_pod("gateway", node="node2")
)
FAR = a_connection(mechanism="vxlan", vni=7, server=SERVER)


async def test_a_connection_across_nodes_is_told_to_the_clients_node_first() -> None:
    writer = FakeWriter()
    await Store(writer).answer(Writes(granted=FAR))
    assert [message for _, message in writer.written] == list(per_node(FAR))
    assert [message.node for _, message in writer.written] == ["node1", "node2"]


async def test_a_release_says_whose_it_was_what_it_held_and_where_the_client_is() -> None:
    writer = FakeWriter()
    await Store(writer).release(Writes(released=per_node(FAR)), at="then")
    assert [tombstone for _, tombstone in writer.written] == [
        Tombstone(
            released="uid-of-client",
            revision=1,
            endpoint="default/vpn",
            addresses=("172.16.1.2/32",),
            peer_addresses=("10.9.0.1/32",),
            vni=7,
            node=node,
            at="then",
        )
        for node in ("", "node1")
    ]


async def test_an_answer_forgives_before_it_refuses_and_releases_nothing() -> None:
    writer = FakeWriter()
    refusal = a_refusal()
    writes = Writes(released=(a_connection("gone"),), forgiven=refusal.key, refused=refusal)
    await Store(writer).answer(writes)
    assert writer.written == [(refusal.key, Tombstone()), (refusal.key, refusal)]
