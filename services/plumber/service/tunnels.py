"""Connections to other nodes: who may use the tunnel port, and whether the other ends answer."""

import asyncio
from collections.abc import Callable

import structlog

from schemas.grant import TUNNEL_PORT, Connection
from schemas.reasons import PEER_SILENT
from schemas.subjects import ConnectionKey
from services.plumber import core
from services.plumber.adapters import Answer, Kernel, Peers, Refused
from services.plumber.model import Blocked, Waiting, Wiring

log = structlog.get_logger()


class Tunnels:
    """`look_at` is told a connection whose other end answers, or does not any more."""

    def __init__(self, kernel: Kernel, *, look_at: Callable[[ConnectionKey], None]) -> None:
        self._kernel = kernel
        self._look_at = look_at
        self._remotes: dict[ConnectionKey, str] = {}
        self._keys: dict[str, ConnectionKey] = {}  # by tag
        self._peers = Peers(kernel.open_asking, close=kernel.close_later, on_change=self._changed)
        self._unguarded = ""  # why, told once
        self._one_at_a_time = asyncio.Lock()  # else an older set of nodes might be written last

    @property
    def sockets(self) -> int:
        """How many are open in Pods' networks."""
        return self._peers.sockets

    def note(self, key: ConnectionKey, wiring: Wiring) -> None:
        """It stands or shall stand: its node may use our tunnel port from the next change on."""
        if wiring.tunnel is not None:
            self._remotes[key] = wiring.tunnel.remote
            self._keys[wiring.tag] = key

    async def prepare(self, key: ConnectionKey, wiring: Wiring) -> None:
        """Before anything is made. Raises Refused: without its guard there is no tunnel."""
        self.note(key, wiring)
        if wiring.tunnel is not None:
            await self._admit()

    async def follow(self, grant: Connection, wiring: Wiring, *, is_new: bool) -> Waiting:
        """Why it is not ready, if it is not. Raises Gone or Refused."""
        if wiring.tunnel is None:
            return Waiting()
        peer = grant.server if wiring.client is not None else grant.client
        match await self._peers.follow(wiring, peer.mac, is_new=is_new):
            case Answer.YES:
                return Waiting()
            case Answer.NOT_YET:
                state, reason, what = "pending", "PeerNotReady", "has not answered yet"
            case Answer.NEVER:  # somebody should look, and so it is told as a failure
                state, reason, what = "failed", "PeerNotReady", "has not answered yet"
            case Answer.NO_MORE:
                state, reason, what = "failed", PEER_SILENT, "does not answer any more"
        pod = f"Pod {peer.pod.namespace}/{peer.pod.name}"
        blocked = Blocked(
            state=state,
            reason=reason,
            message=f"{pod} {what} through the tunnel to node {peer.pod.node} ({peer.underlay}); "
            f"look at the Pod, its node, and whether UDP {TUNNEL_PORT} is open between the nodes",
        )
        return Waiting(client=blocked, server=blocked)

    def forget(self, key: ConnectionKey) -> None:
        """Nothing of it stands here; nobody is asked for it."""
        self._remotes.pop(key, None)
        tag = core.tag(key)
        self._keys.pop(tag, None)
        self._peers.forget(tag)

    async def verify(self) -> None:
        """The guard is as the tunnels are; with none there is none."""
        try:
            await self._admit()
        except Refused as exc:
            if self._remotes and self._unguarded != str(exc):
                log.warning("tunnel port not guarded", reason=str(exc))
            self._unguarded = str(exc)
        else:
            self._unguarded = ""

    def close(self) -> None:
        self._peers.close()

    async def _admit(self) -> None:
        async with self._one_at_a_time:
            await self._kernel.admit(set(self._remotes.values()))

    def _changed(self, tag: str) -> None:
        key = self._keys.get(tag)
        if key is not None:
            self._look_at(key)
