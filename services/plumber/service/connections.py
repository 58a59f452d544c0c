"""One connection at a time: from a decision to links, to a file, to what is said of it."""

from collections.abc import Callable, Collection, Iterator

import structlog

from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.subjects import ConnectionKey
from services.plumber import core
from services.plumber.adapters import Gone, Grants, Kernel, NameTaken, Refused
from services.plumber.model import (
    Adjust,
    Applied,
    Blocked,
    Create,
    Pair,
    Place,
    Remove,
    Waiting,
    Wiring,
)
from services.plumber.service.past import reported_as
from services.plumber.service.reporting import Reporter
from services.plumber.service.strays import Strays

log = structlog.get_logger()


class Connections:
    """What was applied on this node (`held`), and the ways to change it. One caller per key at a time.

    `on_change` is told what changed something, and the uids of the Pods in whose networks it did.
    """

    def __init__(
        self,
        node: str,
        kernel: Kernel,
        files: Grants,
        reporter: Reporter,
        *,
        on_change: Callable[[ConnectionKey, set[str]], None],
    ) -> None:
        self.held: dict[ConnectionKey, Applied] = {}
        self.strays = Strays(kernel)
        self._node = node
        self._kernel = kernel
        self._files = files
        self._written: dict[ConnectionKey, Applied] = {}
        self._reporter = reporter
        self._on_change = on_change

    def load(self) -> Iterator[Applied]:
        """Own work of before the start; it is believed until the bus knows better."""
        for path, applied in self._files.read():
            if applied is None or not _is_usable(applied):
                log.warning("file of an applied grant is unreadable", path=str(path))
                continue
            key = applied.grant.key
            self.held[key] = self._written[key] = applied
            yield applied

    async def search(self, places: Collection[Place]) -> None:
        """Look for links of ours, in networks that are new to us, that no file tells of."""
        await self.strays.look(places, lambda: {core.tag(key) for key in self.held})

    async def release(self, key: ConnectionKey) -> None:
        """Remove what stands of what was applied, complete or not. Raises Refused, and then it stays ours."""
        await self.strays.remove(core.tag(key))
        held = self.held.get(key)
        if held is None:
            return
        wiring = core.wiring(held.grant, held.client, held.server)
        pair = await self._kernel.read(wiring)
        for operation in core.plan({}, {wiring.tag: pair}, {}):
            await self._kernel.apply(operation)
        await self._kernel.clear(wiring)
        self._forget(key)
        log.info("disconnected", connection=key.subject, revision=held.grant.revision)
        self._on_change(key, _uids(wiring))

    async def wire(self, key: ConnectionKey, grant: Connection, wiring: Wiring) -> str:
        """Make it as granted and say what is. Why that failed, or nothing. Raises Refused if it cannot look."""
        await self.strays.remove(wiring.tag, but=wiring)
        held = self.held.get(key)
        formerly = core.wiring(held.grant, held.client, held.server) if held else None
        if formerly is not None and not core.same_links(formerly, wiring):
            await self.release(key)
            formerly = None
        try:
            pair = await self._kernel.read(wiring)
            pair = await self._apply(key, grant, (wiring, formerly), pair)
        except (NameTaken, Refused, Gone) as exc:
            standing = await self._kernel.read(wiring)
            if standing == Pair():
                await self._kernel.clear(wiring)
                self._forget(key)
            self.say(grant, standing, _blocked(exc, grant))
            return str(exc)
        self.say(grant, pair, Waiting())
        return ""

    async def fail(self, grant: Connection, reason: str, message: str) -> None:
        """Say that something else than the kernel's refusal of a change kept a grant from being settled."""
        blocked = Blocked(state="failed", reason=reason, message=message)
        waiting = Waiting(client=blocked, server=blocked)
        held = self.held.get(grant.key)
        if held is None:
            self.say(grant, Pair(), waiting)
            return
        try:
            wiring = core.wiring(held.grant, held.client, held.server)
            pair = await self._kernel.read(wiring)
        except (Refused, ValueError):
            status = core.status(grant, node=self._node, pair=Pair(), waiting=waiting)
            self._reporter.say(core.unseen(status, held.grant))
            return
        self.say(grant, pair, waiting)

    async def _apply(
        self,
        key: ConnectionKey,
        grant: Connection,
        wirings: tuple[Wiring, Wiring | None],
        pair: Pair,
    ) -> Pair:
        wiring, formerly = wirings
        before = {} if formerly is None else {wiring.tag: formerly}
        desired = {wiring.tag: wiring}
        operations = core.plan(desired, {wiring.tag: pair}, before)
        for operation in operations:
            if isinstance(operation, Create):
                self._hold(key, grant, wiring)  # before: what a crash leaves must be known as ours
            made = await self._kernel.apply(operation)
            pair = made if isinstance(operation, Create) else pair
            log.info(
                "adjusted" if isinstance(operation, Adjust) else type(operation).__name__.lower(),
                connection=key.subject,
                revision=grant.revision,
            )
            if isinstance(operation, Remove):
                self._on_change(key, _uids(wiring))
        if any(isinstance(operation, Adjust) for operation in operations):
            pair = await self._kernel.read(wiring)
            if core.plan(desired, {wiring.tag: pair}, before):
                raise Refused("the kernel took the change but does not show it")
        self._hold(key, grant, wiring)
        if operations:
            self._on_change(key, _uids(wiring))
        return pair

    def _hold(self, key: ConnectionKey, grant: Connection, wiring: Wiring) -> None:
        applied = Applied(grant=grant, client=wiring.client.place, server=wiring.server.place)
        if self._written.get(key) != applied:
            self.held[key] = applied
            self._files.write(wiring.tag, applied)
            self._written[key] = applied
        self.strays.adopt(wiring.tag)

    def _forget(self, key: ConnectionKey) -> None:
        self._written.pop(key, None)
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


def _uids(wiring: Wiring) -> set[str]:
    return {wiring.client.place.uid, wiring.server.place.uid}


def _is_usable(applied: Applied) -> bool:
    try:
        core.wiring(applied.grant, applied.client, applied.server)
    except ValueError:  # no subject, no address
        return False
    return True


def _blocked(error: NameTaken | Refused | Gone, grant: Connection) -> Waiting:
    """An error of the kernel's side as reasons for both ends."""
    message = str(error)
    match error:
        case NameTaken():
            is_client = error.uid == grant.client.pod.uid
            pod = grant.client.pod if is_client else grant.server.pod
            message = f"Pod {pod.namespace}/{pod.name} {error}"
            taken = Blocked(state="failed", reason="InterfaceNameTaken", message=message)
            peer = Blocked(state="pending", reason="PeerNotReady", message=message)
            return (
                Waiting(client=taken, server=peer)
                if is_client
                else Waiting(client=peer, server=taken)
            )
        case Refused():
            refused = Blocked(state="failed", reason="KernelError", message=message)
            return Waiting(client=refused, server=refused)
        case Gone():
            gone = Blocked(state="pending", reason="PodNetworkNotFound", message=message)
            return Waiting(client=gone, server=gone)
