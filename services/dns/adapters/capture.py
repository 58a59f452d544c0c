"""The capture of one Pod's port 53: one nftables table in its namespace, which fails open in two ways.

- The table belongs to our socket: it ends with our process, however that ends.
- Its rules hold for ports of a set that empties itself after three seconds. A process that hangs does not
  refresh it; then connection tracking, which would keep the sockets of former queries captured, is told to
  leave port 53 alone.

Exempt are our own queries by their mark, which other node proxies exempt too, and a sidecar's user.
"""

import errno
import struct

from services._node import netns, nft, nft_rules, nft_ruleset
from services._node.nft import Message, Nft, NftError
from services.dns.adapters.errors import Conflict, Refused

MARK = 0x539
PORT = 53

_TABLE, _LIVE, _BRIEF = "nsm_dns", "live", "brief"
_MARK_MASK = 0xFFF
_SIDECAR = 1337  # uid and gid that sidecars run as
_LIVE_SECONDS = 3
# Of a captured query in connection tracking: longer than any answer takes, or that would not find its way back;
# short, because where somebody else uses NAT, too, it outlives our table.
_FLOW_SECONDS = 3
_BEFORE_CONNTRACK, _AFTER_CONNTRACK = -300, -150
_BEFORE_OTHERS = -101  # their redirects stand at -100; whoever is first in the hook wins
_UDP, _TCP = 17, 6
# Kernels before 5.12 do not know the flag, and say so in one of these ways.
_NO_OWNER = frozenset({errno.EOPNOTSUPP, errno.EINVAL})


class Capture:
    """Queries of the namespace go to a port of its loopback, as long as `refresh` is called every second."""

    def __init__(self, place: netns.Target, port: int, *, owned: bool = True) -> None:
        """Not `owned`: as on kernels before 5.12, by the time-outs alone.

        Raises Conflict or Refused; OSError if the namespace cannot be entered.
        """
        self.mode = "owned" if owned else "timed"
        self._nft = Nft(place)
        try:
            self.check()
            self._install(_rules(port))
        except BaseException:
            self._nft.close()
            raise

    @property
    def cookie(self) -> int:
        return self._nft.cookie

    def check(self) -> None:
        """Raises Conflict if somebody else redirects the port, Refused if that cannot be read."""
        try:
            found = nft_ruleset.find_redirect(self._nft, port=PORT, but=_TABLE)
        except NftError as exc:
            raise Refused(exc.strerror or str(exc)) from exc
        if found:
            raise Conflict(
                f"{found} redirects port {PORT} already; remove it, or opt the Pod out of DNS capture"
            )

    def refresh(self) -> None:
        """Another three seconds. Raises Refused if the table is not there any more."""
        # Kernels before 6.12 do not prolong what is in a set; and what has left it cannot be deleted.
        again = [
            nft_rules.add_port(_TABLE, _LIVE, PORT),
            nft_rules.delete_port(_TABLE, _LIVE, PORT),
            nft_rules.add_port(_TABLE, _LIVE, PORT),
        ]
        self._transact(again)

    def close(self) -> None:
        """Release the port at once. Nothing to do is no error."""
        if self.mode == "timed":
            try:
                self._nft.transact([nft_rules.delete_table(_TABLE)])
            except OSError:
                pass  # not refreshed, it captures nothing in a few seconds
        self._nft.close()

    def _install(self, rules: list[Message]) -> None:
        if self.mode == "owned":
            try:
                self._nft.transact([nft_rules.table(_TABLE, flags=nft.OWNER), *rules])
            except NftError as exc:
                if exc.errno not in _NO_OWNER:
                    raise Refused(_told(exc)) from exc
                self.mode = "timed"
        if self.mode == "timed":
            # One of a former process may stand: without an owner nobody removed it.
            anew = [
                nft_rules.table(_TABLE, exclusive=False),
                nft_rules.delete_table(_TABLE),
                nft_rules.table(_TABLE),
            ]
            self._transact([*anew, *rules])

    def _transact(self, messages: list[Message]) -> None:
        try:
            self._nft.transact(messages)
        except NftError as exc:
            raise Refused(_told(exc)) from exc


def _told(error: NftError) -> str:
    if error.errno in {errno.EEXIST, errno.EPERM}:
        return f"{error.strerror}: the table {_TABLE} may be another process's still"
    return error.strerror or str(error)


def _rules(port: int) -> list[Message]:
    """Everything inside the table."""
    made = [
        nft_rules.port_set(_TABLE, _LIVE, timeout_seconds=_LIVE_SECONDS),
        nft_rules.add_port(_TABLE, _LIVE, PORT),
        nft_rules.udp_timeout(_TABLE, _BRIEF, seconds=_FLOW_SECONDS),
    ]
    for name, kind, hook, priority, bodies in _chains(port):
        made.append(nft_rules.base_chain(_TABLE, name, kind=kind, hook=hook, priority=priority))
        made += [nft_rules.rule(_TABLE, name, body) for body in bodies]
    return made


def _chains(port: int) -> list[tuple[str, str, int, int, list[list[bytes]]]]:
    """(name, type, hook, priority, rules) of each."""
    out, into = nft_rules.LOCAL_OUT, nft_rules.PREROUTING
    udp, tcp = (nft_rules.meta_is(nft_rules.L4PROTO, bytes([n])) for n in (_UDP, _TCP))
    untracked = [
        [*udp, *nft_rules.port_is_absent(_LIVE, PORT, source=source), *nft_rules.notrack()]
        for source in (False, True)
    ]
    brief = [*udp, *nft_rules.port_is(PORT), *nft_rules.set_timeout(_BRIEF)]
    redirected = [
        [*match, *nft_rules.port_is_in(_LIVE), *nft_rules.redirect(port)] for match in (udp, tcp)
    ]
    return [
        ("escaping", "filter", out, _BEFORE_CONNTRACK, untracked[:1]),
        ("returning", "filter", into, _BEFORE_CONNTRACK, untracked[1:]),
        ("flows", "filter", out, _AFTER_CONNTRACK, [*_exempt(), brief]),
        ("queries", "nat", out, _BEFORE_OTHERS, [*_exempt(), *redirected]),
    ]


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
