"""What the Pods of connections use: two connections of one Pod never overlap, in either role.

A Pod uses what a connection has for as long as a node that the connection concerns has not let go.
"""

from collections.abc import Iterator

from schemas.subjects import RequestKey
from services.ipam.core.blocks import Block, last_of, of_host, show
from services.ipam.core.holdings import Holding, ObjectKey
from services.ipam.core.table import Table

# A client's connection by its request; what an endpoint Pod serves by the object, whose pool sees to that itself.
Owner = RequestKey | ObjectKey


class PodUses:
    """Addresses and routes of connections, by Pod uid."""

    def __init__(self) -> None:
        self._tables: dict[str, Table[Owner, int]] = {}

    def put(self, holding: Holding) -> None:
        for uid, block, owner in uses_of(holding):
            table = self._tables.get(uid)
            if table is None:
                table = self._tables[uid] = Table()
            table.put(block, owner, (table.get(block, owner) or 0) + 1)

    def drop(self, holding: Holding) -> None:
        for uid, block, owner in uses_of(holding):
            table = self._tables[uid]
            count = (table.get(block, owner) or 0) - 1
            if count > 0:
                table.put(block, owner, count)
                continue
            table.drop(block, owner)
            if not table:
                del self._tables[uid]

    def knows(self, *uids: str) -> bool:
        """Whether one of these Pods uses anything."""
        return any(uid in self._tables for uid in uids)

    def connections(self, uid: str) -> set[RequestKey]:
        """Those that a Pod has as their client."""
        table = self._tables.get(uid)
        owners = table.owners() if table is not None else ()
        return {owner for owner in owners if isinstance(owner, RequestKey)}

    def blocked_to(self, uid: str, family: int, number: int, *, but: Owner) -> int | None:
        """Up to where a number and those after it are used by another connection of a Pod."""
        table = self._tables.get(uid)
        if table is None:
            return None
        for block, owner, _ in table.covering(family, number):
            if owner != but and block[2]:  # a default route leads away from what others have
                return last_of(block)
        return None

    def overlapping(self, uid: str, block: Block, *, but: Owner) -> str | None:
        """What another connection of a Pod has of a block, and which. Default routes overlap one another alone."""
        table = self._tables.get(uid)
        if table is None:
            return None
        for other, owner, _ in table.overlapping(block):
            if owner != but and bool(other[2]) == bool(block[2]):
                return f"{show(other)} ({_words(owner)})"
        return None


def uses_of(holding: Holding) -> Iterator[tuple[str, Block, Owner]]:
    """What either Pod has by a connection, as far as its node has not let go; by whom."""
    hosts = [of_host(host) for host in (*holding.client, *holding.server)]
    if holding.uid and holding.node in holding.nodes:
        for block in (*hosts, *holding.routes):
            yield holding.uid, block, holding.key
    is_there = holding.nodes - {holding.node} if holding.vni else holding.nodes
    if holding.server_uid and is_there:
        for block in hosts:
            yield holding.server_uid, block, holding.object


def _words(owner: Owner) -> str:
    if isinstance(owner, RequestKey):
        return f"connection {owner.interface} of pod {owner.namespace}/{owner.pod}"
    return f"endpoint {'/'.join(owner)}, which this Pod serves"
