"""Where decisions go: the stream NSM_GRANT, written under the leader's fence."""

from typing import Protocol

from schemas.codec import Message, Tombstone
from schemas.grant import Connection
from schemas.subjects import Key
from services.ipam.model import Writes, is_copy, per_node


class Writer(Protocol):
    """A leader's term, as far as this module needs it."""

    async def publish(self, message: Message, /) -> int: ...
    async def bury(self, key: Key, /, tombstone: Tombstone = ...) -> int: ...


class Store:
    """Writes grants, refusals and pools; a released grant says whose it was and what it held."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def release(self, writes: Writes, *, at: str) -> None:
        """What settling one request gives back. `at`: RFC 3339 time, for people."""
        for connection in writes.released:
            await self._writer.bury(connection.key, tombstone_of(connection, at=at))

    async def answer(self, writes: Writes) -> None:
        """What settling one request grants or refuses.

        The client's node first: from that word alone the copy can be written again.
        """
        if writes.granted is not None:
            for connection in per_node(writes.granted):
                await self._writer.publish(connection)
        if writes.forgiven is not None:
            await self._writer.bury(writes.forgiven)
        if writes.refused is not None:
            await self._writer.publish(writes.refused)

    async def tell(self, message: Message) -> None:
        """A message as it is."""
        await self._writer.publish(message)

    async def forget(self, key: Key, tombstone: Tombstone = Tombstone()) -> None:  # noqa: B008  frozen
        """What `key` is about is gone."""
        await self._writer.bury(key, tombstone)


def tombstone_of(connection: Connection, *, at: str) -> Tombstone:
    """Whose a released connection was and what it held, for who has to hold it until it is confirmed."""
    return Tombstone(
        released=connection.client.pod.uid,
        revision=connection.revision,
        endpoint=f"{connection.endpoint_namespace}/{connection.endpoint}",
        addresses=connection.client.addresses,
        peer_addresses=connection.server.addresses,
        vni=connection.vni,
        node=connection.client.pod.node if is_copy(connection) else "",
        held=connection.held,
        at=at,
    )
