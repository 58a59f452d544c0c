"""What a writer that died in the middle left on the bus, and what time would take from it.

A connection across nodes is told twice, under each node: its copy must be there, and none without it. And a
tombstone that nobody confirmed yet is told again before it removes itself: silence frees no address. What the
stream of nodes' statuses lost only nodes can write again.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import structlog

from schemas.codec import TOMBSTONE_TTL_SECONDS
from schemas.grant import Connection
from schemas.subjects import ConnectionKey, RequestKey
from services._runtime.auditing import Audit
from services._runtime.leading import Term
from services._runtime.mirror import Mirror
from services.ipam.adapters import Store, tombstone_of
from services.ipam.core.state import Holding, State, request_key
from services.ipam.model import per_node
from services.ipam.service.past import Past

KEEP_SECONDS = TOMBSTONE_TTL_SECONDS / 6
_ASK_SECONDS = 300.0

log = structlog.get_logger()


async def repair_copies(own: Mirror, state: State, store: Store) -> None:
    """Take back copies without an original, write those that are missing or old."""
    lost = list(_orphans(own, state))
    for copy in lost:
        with contextlib.suppress(ValueError):  # told already as of no use
            state.hold(msgspec.structs.replace(Holding.of(copy), is_released=True))
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        await store.forget(copy.key, tombstone_of(copy, at=at))
    missing = [
        copy
        for connection in state.grants.values()
        for copy in per_node(connection)[1:]
        if own.items.get(copy.key) != copy
    ]
    for copy in missing:
        await store.tell(copy)
    if lost or missing:
        log.info("copies for endpoints' nodes repaired", removed=len(lost), written=len(missing))


def _orphans(own: Mirror, state: State) -> Iterator[Connection]:
    for told in own.items.values():
        if isinstance(told, Connection):
            original = state.grants.get(request_key(told))
            if original is None or told.node not in {c.node for c in per_node(original)}:
                yield told


async def keep_tombstones(past: Past, state: State, store: Store) -> None:
    """Tell what is not confirmed once more, for ever."""
    while True:
        await asyncio.sleep(KEEP_SECONDS)
        for key, tombstone, is_gone in past.released():
            if not is_gone and _is_held(state, key, tombstone.revision):
                await store.forget(key, tombstone)


async def ask_nodes_again(term: Term, states: Mirror) -> None:
    """Have nodes tell anew what was lost of their statuses, for ever; what none of them tells is gone."""
    audit, asked_at = Audit(states), -math.inf
    while True:
        await audit.until_short()
        log.warning("nodes' statuses were lost", stream=states.stream, found=audit.found)
        if audit.found == 1:
            # A node can have its own words end by themselves: that makes not all nodes tell all the time.
            await asyncio.sleep(asked_at + _ASK_SECONDS - time.monotonic())
            asked_at = time.monotonic()
            await term.ask_again()
        else:
            states.resync("what was lost was not told again")


def _is_held(state: State, key: ConnectionKey, revision: int) -> bool:
    held = state.held(RequestKey(key.namespace, key.pod, key.interface))
    return any(holding.is_released and holding.revision == revision for holding in held)
