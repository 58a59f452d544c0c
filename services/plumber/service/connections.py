"""One connection at a time: from a decision to links, to a file, to what is said of it."""

import contextlib
from collections.abc import Callable, Collection, Iterator

import structlog
from prometheus_client import CollectorRegistry

from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.state import Status
from schemas.subjects import ConnectionKey
from services.plumber import core
from services.plumber.adapters import Gone, Grants, Kernel, NameTaken, Refused, errors
from services.plumber.model import (
    Adjust,
    Applied,
    Blocked,
    Create,
    Operation,
    Pair,
    Place,
    Remove,
    Waiting,
    Wiring,
)
from services.plumber.service.figures import Figures
from services.plumber.service.past import reported_as
from services.plumber.service.repairs import Repairs
from services.plumber.service.reporting import Reporter
from services.plumber.service.standing import Standing
from services.plumber.service.strays import Strays
from services.plumber.service.tunnels import Tunnels

log = structlog.get_logger()


class Connections:
    """What was applied on this node (`held`), and the ways to change it. One caller per key at a time.

    `on_change` is told what changed something, and the uids of the Pods in whose networks it did; `look_at` what is
    to be looked at once more.
    """

    def __init__(
        self,
        node: str,
        kernel: Kernel,
        files: Grants,
        reporter: Reporter,
        *,
        registry: CollectorRegistry,
        on_change: Callable[[ConnectionKey, set[str]], None],
        look_at: Callable[[ConnectionKey], None],
    ) -> None:
        self.held: dict[ConnectionKey, Applied] = {}
        self.standing = Standing(look_at)
        self.strays = Strays(kernel)
        self.tunnels = Tunnels(kernel, look_at=look_at)
        self.figures = Figures(registry)
        self.figures.connections.set_function(lambda: len(self.standing.pairs))
        self._repairs = Repairs(registry)
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
            self.tunnels.note(key, _wiring(applied))
            yield applied

    async def search(self, places: Collection[Place]) -> None:
        """Look for links of ours, in networks that are new to us, that no file tells of."""
        await self.tunnels.verify()
        await self.strays.look(places, lambda: {core.tag(key) for key in self.held})

    async def release(self, key: ConnectionKey) -> None:
        """Remove what stands of what was applied, complete or not. Raises Refused, and then it stays ours."""
        await self.strays.remove(core.tag(key))
        self._repairs.forget(key)
        held = self.held.get(key)
        if held is None:
            return
        self.standing.forget(key)
        wiring = _wiring(held)
        pair = await self._kernel.read(wiring)
        self.figures.carried(held.grant, pair, is_new=False)
        for operation in core.plan({}, {wiring.tag: pair}, {}):
            await self._kernel.apply(operation)
        await self._kernel.clear(wiring)
        self._forget(key)
        if wiring.tunnel is not None:
            await self.tunnels.verify()
        log.info("disconnected", connection=key.subject, revision=held.grant.revision)
        self._on_change(key, _uids(wiring))

    async def wire(
        self,
        key: ConnectionKey,
        grant: Connection,
        wiring: Wiring,
        *,
        cluster: Collection[str] = (),
    ) -> str:
        """Make it as granted and say what is. Why that failed, or nothing. Raises Refused if it cannot look.

        `cluster` is what the wiring was made with.
        """
        await self.strays.remove(wiring.tag, but=wiring)
        applied = _applied(grant, wiring, cluster)
        formerly = wiring if self.held.get(key) == applied else self.formerly(key)
        if formerly is not None and not core.same_links(formerly, wiring):
            await self.release(key)
            formerly = None
        try:
            await self.tunnels.prepare(key, wiring)
            before, pair = await self._make(applied, (wiring, formerly))
            is_new = [end.index for end in before.ends] != [end.index for end in pair.ends]
            waiting = await self.tunnels.follow(grant, wiring, is_new=is_new)
        except (NameTaken, Refused, Gone) as exc:
            self.standing.forget(key)
            standing = await self._kernel.read(wiring)
            if standing == Pair():
                await self._kernel.clear(wiring)
                self._forget(key)
            self.say(grant, standing, _blocked(exc, grant))
            return str(exc)
        self.say(grant, pair, waiting)
        return ""

    async def fail(self, grant: Connection, reason: str, message: str) -> None:
        """Say that something else than the kernel's refusal of a change kept a grant from being settled."""
        blocked = Blocked(state="failed", reason=reason, message=message)
        await self.keep(grant, Waiting(client=blocked, server=blocked))

    async def keep(self, grant: Connection, waiting: Waiting) -> None:
        """Say why a grant is not settled, and what stands all the same. Never raises Refused."""
        held = self.held.get(grant.key)
        if held is None:
            self.say(grant, Pair(), waiting)
            return
        try:
            pair = await self._kernel.read(_wiring(held))
        except (Refused, ValueError):
            status = core.status(grant, node=self._node, pair=Pair(), waiting=waiting)
            self._reporter.say(core.unseen(status, held.grant))
            return
        self.say(grant, pair, waiting)

    async def _make(
        self, applied: Applied, wirings: tuple[Wiring, Wiring | None]
    ) -> tuple[Pair, Pair]:
        """What stood, and what stands. Where nothing was ever applied nobody looks first: that costs a third."""
        wiring, formerly = wirings
        if formerly is None:
            with contextlib.suppress(errors.Standing):  # its file was lost
                return Pair(), await self._apply(applied, wirings, Pair())
        before = await self._kernel.read(wiring)
        if formerly is not None and wiring.tunnel is not None and before == Pair():
            # A pair's other end would take it along; a renamed tunnel would keep its number for itself.
            await self.strays.hunt(wiring.tag, [end.place for end in wiring.ends])
        return before, await self._apply(applied, wirings, before)

    async def _apply(
        self, applied: Applied, wirings: tuple[Wiring, Wiring | None], pair: Pair
    ) -> Pair:
        wiring, formerly = wirings
        key = applied.grant.key
        before = {} if formerly is None else {wiring.tag: formerly}
        desired = {wiring.tag: wiring}
        operations = core.plan(desired, {wiring.tag: pair}, before)
        for operation in operations:
            if isinstance(operation, Create):
                self._hold(applied, wiring.tag)  # before: what a crash leaves must be known as ours
            made = await self._perform(operation, applied.grant)
            pair = made if isinstance(operation, Create) else pair
            if formerly == wiring:
                self._repairs.note(key, wiring, operation)
            if isinstance(operation, Remove):
                self._on_change(key, _uids(wiring))
        if wiring.client is not None and wiring.client.lookups and operations:
            # Which addresses the Pod has beside ours, and so which rules it needs, is seen in the kernel.
            pair = await self._kernel.read(wiring)
            operations += (more := core.plan(desired, {wiring.tag: pair}, before))
            for operation in more:
                await self._perform(operation, applied.grant)
        if any(isinstance(operation, Adjust) for operation in operations):
            pair = await self._kernel.read(wiring)
            if core.plan(desired, {wiring.tag: pair}, before):
                raise Refused("the kernel took the change but does not show it")
        self._hold(applied, wiring.tag)
        self.standing.note(key, pair)
        is_new = any(isinstance(operation, Create) for operation in operations)
        self.figures.carried(applied.grant, pair, is_new=is_new)
        if operations:
            self._on_change(key, _uids(wiring))
        return pair

    async def _perform(self, operation: Operation, grant: Connection) -> Pair:
        if not isinstance(operation, Adjust):
            self.standing.forget(grant.key)
        made = await self._kernel.apply(operation)
        log.info(
            "adjusted" if isinstance(operation, Adjust) else type(operation).__name__.lower(),
            connection=grant.key.subject,
            revision=grant.revision,
        )
        return made

    def _hold(self, applied: Applied, tag: str) -> None:
        key = applied.grant.key
        if self._written.get(key) != applied:
            self.held[key] = applied
            self._files.write(tag, applied)
            self._written[key] = applied
        self.strays.adopt(tag)

    def _forget(self, key: ConnectionKey) -> None:
        self._written.pop(key, None)
        self.figures.forget(key)
        self.tunnels.forget(key)
        if self.held.pop(key, None) is not None:
            self._files.remove(core.tag(key))

    def say(self, grant: Connection, pair: Pair, waiting: Waiting) -> None:
        held = self.held.get(grant.key)
        status = core.status(
            grant,
            node=self._node,
            pair=pair,
            waiting=waiting,
            applied=held.grant if held else None,
        )
        self._reporter.say(self._repairs.told(grant.key, status))

    def said(self, key: ConnectionKey) -> Status | None:
        return self._reporter.said(reported_as(key))

    def formerly(self, key: ConnectionKey) -> Wiring | None:
        """What was applied last."""
        held = self.held.get(key)
        return _wiring(held) if held else None

    def bury(self, key: ConnectionKey, uid: str, revision: int, *, again: bool = False) -> None:
        """Say that nothing stands; `again`: also if that is what was said last."""
        tombstone = Tombstone(released=uid, revision=revision)
        self._reporter.bury(reported_as(key), tombstone, again=again)


def _applied(grant: Connection, wiring: Wiring, cluster: Collection[str]) -> Applied:
    client, server = (end.place if end else None for end in (wiring.client, wiring.server))
    return Applied(grant=grant, client=client, server=server, cluster=tuple(cluster))


def _wiring(applied: Applied) -> Wiring:
    """What was applied, as a wiring. Raises ValueError for what makes no sense."""
    return core.wiring(applied.grant, applied.client, applied.server, cluster=applied.cluster)


def _uids(wiring: Wiring) -> set[str]:
    return {end.place.uid for end in wiring.ends}


def _is_usable(applied: Applied) -> bool:
    try:
        _wiring(applied)
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
            reason = "RouteTaken" if isinstance(error, errors.RouteTaken) else "KernelError"
            refused = Blocked(state="failed", reason=reason, message=message)
            return Waiting(client=refused, server=refused)
        case Gone():
            gone = Blocked(state="pending", reason="PodNetworkNotFound", message=message)
            return Waiting(client=gone, server=gone)
