"""The capture of one Pod's port 53: nftables in its namespace, which fail open in three ways.

- The table that redirects belongs to our socket: it ends with our process, however that ends.
- Its rules hold for ports of a set that empties itself after three seconds. A process that hangs does not
  refresh it.
- Connection tracking would keep the sockets of former queries captured, also without that table where somebody
  else uses NAT. A second table, which belongs to nobody and has a set of its own, tells it to leave port 53 alone
  once that set is empty. Only this one outlives our process: until the next start looks at the Pod, or until the
  Pod ends if there is none. All it does then is not to track port 53.

Flows to where nobody listens any more are forgotten at the start and at the end of a capture.
Exempt are our own queries by their mark, which other node proxies exempt too, and a sidecar's user.
"""

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Collection

from services._node import netns, nft, nft_flows, nft_rules, nft_ruleset
from services._node.nft import Message, Nft, NftError
from services._runtime.settings import SettingsError
from services.dns.adapters.errors import Conflict, Refused

MARK = 0x539
PORT = 53

_TABLE, _LIVE, _BRIEF = "nsm_dns", "live", "brief"
_OPEN_TABLE = "nsm_dns_open"
_MARK_MASK = 0xFFF
_SIDECAR = 1337  # uid and gid that sidecars run as
_LIVE_SECONDS = 3
# Of a captured query in connection tracking: longer than any answer takes, or that would not find its way back;
# short, because it may outlive our table.
_FLOW_SECONDS = 3
_BEFORE_CONNTRACK, _AFTER_CONNTRACK = -300, -150
_BEFORE_OTHERS = -101  # their redirects stand at -100; whoever is first in the hook wins
_UDP, _TCP = 17, 6
_FAMILIES: dict[int, int] = {socket.AF_INET: nft.IPV4, socket.AF_INET6: nft.IPV6}
# Kernels before 5.12 do not know the flag, and say so in one of these ways.
_NO_OWNER = frozenset({errno.EOPNOTSUPP, errno.EINVAL})


class Capture:
    """Queries of the namespace go to a port of its loopback, as long as `refresh` is called every second."""

    def __init__(
        self,
        place: netns.Target,
        port: int,
        *,
        families: Collection[int] = tuple(_FAMILIES),
        captured: Collection[int] = (PORT,),
        owned: bool = True,
    ) -> None:
        """`families` are those that somebody listens on: queries of others are left alone.

        `captured` are the ports whose queries come to us.
        Not `owned`: as on kernels before 5.12, by the time-outs alone.
        Raises Conflict or Refused; OSError if the namespace cannot be entered.
        """
        self.mode = "owned" if owned else "timed"
        self._port = port
        self._captured = tuple(captured)
        self._nft = Nft(place)
        try:
            self.check()
            self._install(_rules(port, families, self._captured))
            self._forget(lambda to: to != port)
        except BaseException:
            self._nft.close()
            raise

    @property
    def cookie(self) -> int:
        return self._nft.cookie

    def check(self) -> None:
        """Raises Conflict if somebody else redirects a port, Refused if that cannot be read."""
        for port in self._captured:
            try:
                found = nft_ruleset.find_redirect(self._nft, port=port, but=_TABLE)
            except NftError as exc:
                raise Refused(exc.strerror or str(exc)) from exc
            if found:
                raise Conflict(
                    f"{found} redirects port {port} already; remove it, or opt the Pod out of DNS capture"
                )

    def refresh(self) -> None:
        """Another three seconds. Raises Refused if a table is not there any more."""
        self._transact([*self._again(_TABLE), *self._again(_OPEN_TABLE)])

    def stop(self) -> None:
        """Capture nothing new. What was captured still gets its answers, for three seconds. Raises Refused."""
        # The table stays: with the last rule of its kind the kernel would stop translating what it captured.
        ends = [
            change(_TABLE, _LIVE, port)
            for port in self._captured
            for change in (nft_rules.add_port, nft_rules.delete_port)
        ]
        self._transact([*ends, *self._again(_OPEN_TABLE)])

    def close(self) -> None:
        """Release the port at once. Nothing to do is no error."""
        ends = [nft_rules.delete_table(table) for table in (_TABLE, _OPEN_TABLE)]
        for attempt in (ends, ends[:1], ends[1:]):  # somebody may have removed one of them
            # If the kernel refuses: not refreshed, they capture nothing in a few seconds.
            with contextlib.suppress(OSError):
                self._nft.transact(attempt)
                if attempt is ends:
                    break
        self._forget(lambda to: to == self._port)
        self._nft.close()

    def _again(self, table: str) -> list[Message]:
        # Kernels before 6.12 do not prolong what is in a set; and what has left it cannot be deleted.
        return [
            change(table, _LIVE, port)
            for port in self._captured
            for change in (nft_rules.add_port, nft_rules.delete_port, nft_rules.add_port)
        ]

    def _forget(self, sent_to: Callable[[int], bool]) -> None:
        for port in self._captured:
            nft_flows.forget(self._nft, port=port, sent_to=sent_to)

    def _install(self, rules: list[Message]) -> None:
        if self.mode == "owned":
            try:
                self._nft.transact([nft_rules.table(_TABLE, flags=nft.OWNER), *rules])
            except NftError as exc:
                if exc.errno not in _NO_OWNER:
                    raise Refused(_told(exc)) from exc
                self.mode = "timed"
        if self.mode == "timed":
            self._transact([*_anew(_TABLE), *rules])

    def _transact(self, messages: list[Message]) -> None:
        try:
            self._nft.transact(messages)
        except NftError as exc:
            raise Refused(_told(exc)) from exc


def captured_ports(told: str) -> tuple[int, ...]:
    """53, and what DNS_TARGET_PORTS names. Raises SettingsError."""
    ports = [PORT]
    for text in filter(None, (word.strip() for word in told.split(","))):
        if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 16:
            raise SettingsError(
                f"DNS_TARGET_PORTS: {text!r} is no port: give numbers separated by commas"
            )
        ports.append(int(text))
    return tuple(dict.fromkeys(ports))


def _told(error: NftError) -> str:
    if error.errno in {errno.EEXIST, errno.EPERM}:
        return f"{error.strerror}: the table {_TABLE} may be another process's still"
    return error.strerror or str(error)


def clear_leftover(place: netns.Target, captured: Collection[int] = (PORT,)) -> None:
    """Remove what a former process left; what a living one owns stays. Raises OSError."""
    with Nft(place) as opened:
        found = opened.dump(Message(nft.GET_TABLE, nft.INET))
        flags = {nft.read_text(each[1]): nft.read_number(each.get(2, b"")) for _, each in found}
        if _OPEN_TABLE not in flags or flags.get(_TABLE, 0) & nft.OWNER:
            return
        ours = [name for name in (_TABLE, _OPEN_TABLE) if name in flags]
        opened.transact([nft_rules.delete_table(name) for name in ours])
        for port in captured:
            nft_flows.forget(opened, port=port, sent_to=lambda _: True)


def _anew(table: str) -> list[Message]:
    """One of a former process may stand: without an owner nobody removed it."""
    return [
        nft_rules.table(table, exclusive=False),
        nft_rules.delete_table(table),
        nft_rules.table(table),
    ]


def _rules(port: int, families: Collection[int], captured: Collection[int]) -> list[Message]:
    """Everything inside the first table, and the second one."""
    escaping = [_untracked(each, source=False) for each in captured]
    returning = [_untracked(each, source=True) for each in captured]
    hook = nft_rules.PREROUTING
    return [
        nft_rules.port_set(_TABLE, _LIVE, timeout_seconds=_LIVE_SECONDS),
        *(nft_rules.add_port(_TABLE, _LIVE, each) for each in captured),
        nft_rules.udp_timeout(_TABLE, _BRIEF, seconds=_FLOW_SECONDS),
        *_chain(_TABLE, "flows", "filter", _AFTER_CONNTRACK, _brief(captured)),
        *_chain(_TABLE, "queries", "nat", _BEFORE_OTHERS, _redirected(port, families)),
        *_anew(_OPEN_TABLE),
        nft_rules.port_set(_OPEN_TABLE, _LIVE, timeout_seconds=_LIVE_SECONDS),
        *(nft_rules.add_port(_OPEN_TABLE, _LIVE, each) for each in captured),
        *_chain(_OPEN_TABLE, "escaping", "filter", _BEFORE_CONNTRACK, escaping),
        *_chain(_OPEN_TABLE, "returning", "filter", _BEFORE_CONNTRACK, returning, hook=hook),
    ]


def _chain(
    table: str,
    name: str,
    kind: str,
    priority: int,
    bodies: list[list[bytes]],
    *,
    hook: int = nft_rules.LOCAL_OUT,
) -> list[Message]:
    made = [nft_rules.base_chain(table, name, kind=kind, hook=hook, priority=priority)]
    return made + [nft_rules.rule(table, name, body) for body in bodies]


def _untracked(port: int, *, source: bool) -> list[bytes]:
    absent = nft_rules.port_is_absent(_LIVE, port, source=source)
    return [*_protocol(_UDP), *absent, *nft_rules.notrack()]


def _brief(captured: Collection[int]) -> list[list[bytes]]:
    brief = nft_rules.set_timeout(_BRIEF)
    named = [[*_protocol(_UDP), *nft_rules.port_is(port), *brief] for port in captured]
    return [*_exempt(), *named]


def _redirected(port: int, families: Collection[int]) -> list[list[bytes]]:
    queries = [*nft_rules.port_is_in(_LIVE), *nft_rules.redirect(port)]
    rules = _exempt()
    for family in families:
        of = nft_rules.meta_is(nft_rules.NFPROTO, bytes([_FAMILIES[family]]))
        rules.append([*of, *_protocol(_UDP), *queries])
        # A connection that stood before the capture goes on with whom it was made to.
        rules.append([*of, *_protocol(_TCP), *nft_rules.opens_tcp(), *queries])
    return rules


def _protocol(number: int) -> list[bytes]:
    return nft_rules.meta_is(nft_rules.L4PROTO, bytes([number]))


def _exempt() -> list[list[bytes]]:
    def word(value: int) -> bytes:
        return struct.pack("=I", value)

    return [
        [
            *nft_rules.meta_is(nft_rules.MARK, word(MARK), mask=word(_MARK_MASK)),
            *nft_rules.back(),
        ],
        [*nft_rules.meta_is(nft_rules.SKUID, word(_SIDECAR)), *nft_rules.back()],
        [*nft_rules.meta_is(nft_rules.SKGID, word(_SIDECAR)), *nft_rules.back()],
    ]
