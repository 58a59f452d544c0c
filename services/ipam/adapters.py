"""Where decisions go: the stream NSM_GRANT, written under the leader's fence."""

from typing import Protocol

from schemas.codec import Message, Tombstone
from schemas.grant import Connection, Pool, Refusal
from schemas.subjects import Key, PoolKey, RefusalKey
from services.ipam.model import Writes


class Writer(Protocol):
    """A leader's term, as far as this module needs it."""

    async def publish(self, message: Message, /) -> int: ...
    async def bury(self, key: Key, /, tombstone: Tombstone = ...) -> int: ...


class Store:
    """Writes grants, refusals and pools; a released grant says whose it was and what it held."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def grant(self, connection: Connection) -> None:
        await self._writer.publish(connection)

    async def release(self, connection: Connection, *, at: str) -> None:
        """`at`: RFC 3339 time, for people."""
        tombstone = Tombstone(
            released=connection.client.pod.uid,
            revision=connection.revision,
            endpoint=f"{connection.endpoint_namespace}/{connection.endpoint}",
            addresses=connection.client.addresses,
            peer_addresses=connection.server.addresses,
            vni=connection.vni,
            at=at,
        )
        await self._writer.bury(connection.key, tombstone)

    async def refuse(self, refusal: Refusal) -> None:
        await self._writer.publish(refusal)

    async def forgive(self, key: RefusalKey) -> None:
        """The refusal does not hold any more."""
        await self._writer.bury(key)

    async def tell(self, pool: Pool) -> None:
        await self._writer.publish(pool)

    async def forget(self, key: PoolKey) -> None:
        """The pool's endpoint is gone."""
        await self._writer.bury(key)

    async def perform(self, writes: Writes, *, at: str) -> None:
        """All of what settling one request asks for, in order."""
        for connection in writes.released:
            await self.release(connection, at=at)
        if writes.granted is not None:
            await self.grant(writes.granted)
        if writes.forgiven is not None:
            await self.forgive(writes.forgiven)
        if writes.refused is not None:
            await self.refuse(writes.refused)
