"""One connection at a time: from a decision to links, to a file, to what is said of it."""

from collections.abc import Iterator

import structlog

from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.subjects import ConnectionKey, StatusKey
from services.plumber import core
from services.plumber.adapters import Gone, Grants, Kernel, NameTaken, Refused
from services.plumber.model import Adjust, Applied, Blocked, Create, Pair, Waiting, Wiring
from services.plumber.service.reporting import Reporter

log = structlog.get_logger()


class Connections:
    """What was applied on this node (`held`), and the ways to change it. One caller per key at a time."""

    def __init__(self, node: str, kernel: Kernel, files: Grants, reporter: Reporter) -> None:
        self.held: dict[ConnectionKey, Applied] = {}
        self._node = node
        self._kernel = kernel
        self._files = files
        self._reporter = reporter

    def load(self) -> Iterator[Applied]:
        """Own work of before the start; it is believed until the bus knows better."""
        for path, applied in self._files.read():
            if applied is None:
                log.warning("file of an applied grant is unreadable", path=str(path))
                continue
            self.held[applied.grant.key] = applied
            yield applied

    async def release(self, key: ConnectionKey) -> None:
        """Remove what stands of what was applied. Raises Refused, and then it stays ours."""
        held = self.held.get(key)
        if held is None:
            return
        wiring = core.wiring(held.grant, held.client, held.server)
        pair = await self._kernel.read(wiring)
        for operation in core.plan({}, {wiring.tag: pair}, {}):
            await self._kernel.apply(operation)
        self._files.remove(wiring.tag)
        del self.held[key]
        log.info("disconnected", connection=key.subject, revision=held.grant.revision)

    async def wire(self, key: ConnectionKey, grant: Connection, wiring: Wiring) -> None:
        held = self.held.get(key)
        formerly = core.wiring(held.grant, held.client, held.server) if held else None
        if formerly is not None and not core.same_links(formerly, wiring):
            await self.release(key)
            formerly = None
        try:
            pair = await self._kernel.read(wiring)
            pair = await self._apply(key, grant, (wiring, formerly), pair)
        except (NameTaken, Refused, Gone) as exc:
            log.warning("connection not wired", connection=key.subject, reason=str(exc))
            standing = await self._kernel.read(wiring)
            if standing == Pair():
                self._forget(key)
            self.say(grant, standing, _blocked(exc, grant))
            return
        self.say(grant, pair, Waiting())

    async def _apply(
        self,
        key: ConnectionKey,
        grant: Connection,
        wirings: tuple[Wiring, Wiring | None],
        pair: Pair,
    ) -> Pair:
        wiring, formerly = wirings
        before = {} if formerly is None else {wiring.tag: formerly}
        for operation in core.plan({wiring.tag: wiring}, {wiring.tag: pair}, before):
            if isinstance(operation, Create):
                self._hold(key, grant, wiring)  # before: what a crash leaves must be known as ours
            made = await self._kernel.apply(operation)
            pair = made if isinstance(operation, Create) else pair
            log.info(
                "adjusted" if isinstance(operation, Adjust) else type(operation).__name__.lower(),
                connection=key.subject,
                revision=grant.revision,
            )
            if isinstance(operation, Adjust):
                pair = await self._kernel.read(wiring)
        self._hold(key, grant, wiring)
        return pair

    def _hold(self, key: ConnectionKey, grant: Connection, wiring: Wiring) -> None:
        applied = Applied(grant=grant, client=wiring.client.place, server=wiring.server.place)
        if self.held.get(key) != applied:
            self.held[key] = applied
            self._files.write(wiring.tag, applied)

    def _forget(self, key: ConnectionKey) -> None:
        if self.held.pop(key, None) is not None:
            self._files.remove(core.tag(key))

    def say(self, grant: Connection, pair: Pair, waiting: Waiting) -> None:
        held = self.held.get(grant.key)
        self._reporter.say(
            core.status(
                grant,
                node=self._node,
                pair=pair,
                waiting=waiting,
                applied=held.grant if held else None,
            )
        )

    def bury(self, key: ConnectionKey, uid: str, revision: int, *, again: bool = False) -> None:
        """Say that nothing stands; `again`: also if that is what was said last."""
        tombstone = Tombstone(released=uid, revision=revision)
        self._reporter.bury(reported_as(key), tombstone, again=again)


def reported_as(key: ConnectionKey) -> StatusKey:
    return StatusKey(key.node, key.namespace, key.pod, key.interface)


def _blocked(error: NameTaken | Refused | Gone, grant: Connection) -> Waiting:
    """An error of the kernel's side as reasons for both ends."""
    message = str(error)
    peer = Blocked(state="pending", reason="PeerNotReady", message=message)
    match error:
        case NameTaken():
            taken = Blocked(state="failed", reason="InterfaceNameTaken", message=message)
            if error.uid == grant.client.pod.uid:
                return Waiting(client=taken, server=peer)
            return Waiting(client=peer, server=taken)
        case Refused():
            refused = Blocked(state="failed", reason="KernelError", message=message)
            return Waiting(client=refused, server=refused)
        case Gone():
            gone = Blocked(state="pending", reason="PodNetworkNotFound", message=message)
            return Waiting(client=gone, server=gone)
