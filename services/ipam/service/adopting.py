"""On a fresh bus nobody knows what nodes have in their kernels until they have told it again.

Not for ever: who is silent for long is *silent*, told by name in the leader message, and keeps only those
waiting who could be given what it may hold. It is heard as soon as it reports, or its Node object is gone.
"""

import asyncio
from collections.abc import Collection
from typing import Any

import structlog

from schemas import grant, state
from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.subjects import Key, NodeKey, PrefixKey
from services._runtime.leading import Term
from services._runtime.mirror import Mirror
from services._runtime.streams import STATE

SHOWN = 20  # nodes named in one line
IN_FLIGHT = 256  # as many writes as the bus pipelines

log = structlog.get_logger()


class Reports:
    """Which nodes have told all they have."""

    def __init__(self, states: Mirror) -> None:
        self.nodes: set[str] = set()  # that Kubernetes knows
        self.changed = asyncio.Event()
        self._states = states

    def note(self, key: Key, message: Any) -> None:
        """A node appeared or went, or said something of itself."""
        if isinstance(key, PrefixKey) and key.source == "node":
            if isinstance(message, Tombstone):
                self.nodes.discard(key.optional_name)
            else:
                self.nodes.add(key.optional_name)
        self.changed.set()

    def missing(self, incarnation: str, nodes: Collection[str]) -> set[str]:
        """Those of `nodes` that have not told it on this very bus."""
        return {node for node in nodes if node in self.nodes and not self._told(node, incarnation)}

    async def silent(self, term: Term, *, seconds: float) -> set[str]:
        """Who is silent as a term begins; waits for all where nobody asked them before."""
        incarnation = term.incarnations[STATE]
        if term.silent is not None:
            return self.missing(incarnation, term.silent)
        try:
            async with asyncio.timeout(seconds):
                while missing := self.missing(incarnation, self.nodes):
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            log.warning(
                "nodes have not reported what they have, goes on without them",
                nodes=sorted(missing)[:SHOWN],
                count=len(missing),
            )
        return missing

    def _told(self, node: str, incarnation: str) -> bool:
        facts = self._states.items.get(NodeKey(node))
        return (
            isinstance(facts, state.NodeFacts)
            and facts.complete
            and facts.incarnation == incarnation
        )


async def write_again(term: Term, own: Mirror) -> None:
    """After the stream was made anew: what we hold is the truth, and is written as it was."""
    kinds = (Connection, grant.Refusal, grant.Pool, grant.ClusterPrefixes)
    held = [own.items.get(key) for key in sorted(own.stale, key=lambda key: key.subject)]
    messages = [message for message in held if isinstance(message, kinds)]
    for start in range(0, len(messages), IN_FLIGHT):
        async with asyncio.TaskGroup() as tasks:
            for message in messages[start : start + IN_FLIGHT]:
                tasks.create_task(term.publish(message))
    if messages:
        log.info("written again", messages=len(messages))
