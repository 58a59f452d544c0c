"""Whether the other ends of this node's tunnels answer: asked again and again, for as long as a tunnel stands.

Nothing in the kernel tells that a tunnel's other end died. Silence is counted in questions that nobody answered,
not in time: a process that was paused does not take its own sleep for a peer's death. A question of the other end
is a hint that it has just come. `on_change` is told connections whose answer is another one than before, unless
`follow` is about to return it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

from services._node import asking
from services._node.asking import Question
from services.plumber.model import Place, Wiring

_INTERVAL_SECONDS = 0.4
_FIRST_SECONDS = 0.02  # doubled until it is the interval
_MOST_MISSED = 3  # with the interval: silence is told within 1.6 s
# At first: the other end may still be on its way. With the intervals: ten seconds, or half of it where it asks us.
_MOST_UNHEARD = 29
_PATIENCE_SECONDS = 0.01  # one that is there answers in much less
_PATIENCE_OF_OLD_SECONDS = 0.1


class Answer(Enum):
    """What is known of an other end."""

    YES = "yes"
    NOT_YET = "not yet"  # nothing was ever heard of it
    NEVER = "never"  # nor in the time that two ends which are made together may need
    NO_MORE = "no more"


@dataclass
class _Peer:
    place: Place
    question: Question
    answer: Answer = Answer.NOT_YET
    missed: int = 0
    # Asked out of turn since the last turn: two that hear no answers do not storm.
    hinted: bool = False
    awaited: bool = False
    timer: asyncio.TimerHandle | None = None
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def mac(self) -> bytes:
        return asking.packed_mac(self.question.mac)

    @property
    def key(self) -> tuple[int, int]:
        return self.place.cookie, 6 if ":" in self.question.peer else 4


class Peers:
    """The tunnels of this node, by tag. `open_in` opens a socket for a family in a Pod's network, `close` closes it."""

    def __init__(
        self,
        open_in: Callable[[Place, int], Awaitable[socket.socket]],
        *,
        close: Callable[[socket.socket], None],
        on_change: Callable[[str], None],
    ) -> None:
        self._open_in = open_in
        self._close_later = close
        self._on_change = on_change
        self._peers: dict[str, _Peer] = {}
        self._by_mac: dict[bytes, set[str]] = {}
        self._sockets: dict[tuple[int, int], socket.socket] = {}

    @property
    def sockets(self) -> int:
        """How many are open, each in a Pod's network."""
        return len(self._sockets)

    async def follow(self, wiring: Wiring, peer_mac: str, *, is_new: bool) -> Answer:
        """Ask from now on, until it is forgotten; what is known after a moment. Raises Gone or Refused."""
        (end,) = wiring.ends
        own, peer = end.asks
        if not peer:
            return Answer.YES  # nobody could answer: no address of one family on both ends
        question = Question(end.interface, end.mac, own, peer_mac.lower(), peer)
        known = self._peers.get(wiring.tag)
        if known is None or is_new or (known.question, known.place) != (question, end.place):
            known = _Peer(end.place, question)
            await self._open(known)
            self._replace(wiring.tag, known)
            self._ask(wiring.tag, known)
            # What stood before was heard before: it is worth a longer wait than saying that it is not.
            patience_seconds = _PATIENCE_SECONDS if is_new else _PATIENCE_OF_OLD_SECONDS
            known.awaited = True
            try:
                # What comes now is the answer of this call, and needs no other look.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience_seconds):
                        await known.heard.wait()
            finally:
                known.awaited = False
        return known.answer

    def forget(self, tag: str) -> None:
        """Stop asking; a socket that no other tunnel needs is closed, so the Pod's network may end."""
        self._replace(tag, None)

    def close(self) -> None:
        for tag in list(self._peers):
            self.forget(tag)

    def _replace(self, tag: str, peer: _Peer | None) -> None:
        before = self._peers.pop(tag, None)
        if before is not None:
            named = self._by_mac[before.mac]
            named.discard(tag)
            if not named:
                del self._by_mac[before.mac]
        if peer is not None:
            self._peers[tag] = peer
            self._by_mac.setdefault(peer.mac, set()).add(tag)
        if before is None:
            return
        if before.timer is not None:
            before.timer.cancel()
        if all(each.key != before.key for each in self._peers.values()):
            self._close(before.key)

    async def _open(self, peer: _Peer) -> None:
        if peer.key in self._sockets:
            return
        opened = await self._open_in(peer.place, peer.key[1])
        if peer.key in self._sockets:  # another tunnel's, meanwhile
            self._close_later(opened)
            return
        self._sockets[peer.key] = opened
        asyncio.get_running_loop().add_reader(opened, self._listen, opened)

    def _close(self, key: tuple[int, int]) -> None:
        opened = self._sockets.pop(key, None)
        if opened is not None:
            asyncio.get_running_loop().remove_reader(opened)
            self._close_later(opened)

    def _take_turn(self, tag: str, peer: _Peer) -> None:
        peer.hinted = False
        self._ask(tag, peer)

    def _ask(self, tag: str, peer: _Peer) -> None:
        if peer.timer is not None:
            peer.timer.cancel()
        if peer.missed >= _MOST_MISSED and peer.answer is Answer.YES:
            self._learn(tag, peer, Answer.NO_MORE)
        elif peer.missed >= _MOST_UNHEARD and peer.answer is Answer.NOT_YET:
            self._learn(tag, peer, Answer.NEVER)
        # else the interface is down or not there: nobody will answer
        with contextlib.suppress(OSError):
            asking.ask(self._sockets[peer.key], peer.question)
        if peer.answer is Answer.YES:
            delay = _INTERVAL_SECONDS
        else:
            delay = min(_FIRST_SECONDS * 2 ** min(peer.missed, 10), _INTERVAL_SECONDS)
        peer.missed += 1
        peer.timer = asyncio.get_running_loop().call_later(delay, self._take_turn, tag, peer)

    def _listen(self, opened: socket.socket) -> None:
        for _ in range(100):  # others want the loop, too
            try:
                frame = opened.recv(128)
            except BlockingIOError:
                return
            except OSError:
                continue  # ENETDOWN, told once
            heard = asking.understand(frame)
            if heard is not None:
                self._hear(heard)

    def _hear(self, heard: asking.Heard) -> None:
        for tag in self._by_mac.get(heard.mac, ()):
            peer = self._peers[tag]
            if peer.question.peer != heard.peer:
                continue
            if heard.is_answer:
                peer.missed = 0
                self._learn(tag, peer, Answer.YES)
            elif peer.answer is not Answer.YES and not peer.hinted:
                peer.hinted = True
                self._ask(tag, peer)

    def _learn(self, tag: str, peer: _Peer, answer: Answer) -> None:
        if peer.answer is answer:
            return
        peer.answer = answer
        if answer is Answer.YES:
            peer.heard.set()
        if not peer.awaited:
            self._on_change(tag)
