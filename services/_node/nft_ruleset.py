"""Who else redirects a port that local programs send to: nftables, and iptables on top of nftables, read back.

Looked at are the chains that the output hook runs as `nat`, and what they jump to. A rule counts that names
the port as the destination, by itself or in a set, and redirects it, itself or by a chain that it jumps to. A
redirect of every port does not count, nor one of every port but some: it is no redirect of ours to quarrel with.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from services._node import iptables, nft, nft_ports
from services._node.nft import Message, Nft, NftError

_LOCAL_OUT = 3
_JUMPS = frozenset({0xFFFFFFFD, 0xFFFFFFFC})  # jump, goto
_REDIRECTS = frozenset({"redir", "nat"})
_TARGETS = frozenset({"REDIRECT", "DNAT"})  # of iptables
_MOST_ELEMENTS = 10_000  # of one set: some 50 ms


class _Table(NamedTuple):
    family: int
    name: str


class _Rule(NamedTuple):
    """What of a rule counts here."""

    about: bool | None  # names the port; leaves it out; says nothing of it
    redirects: bool
    jumps_to: tuple[str, ...]


class _Output(NamedTuple):
    tables: set[_Table]
    starts: set[tuple[_Table, str]]  # chains that the output hook runs


def find_redirect(socket: Nft, *, port: int, but: str) -> str:
    """Which chain redirects the port, in words; empty if none does. `but` is our own inet table.

    Raises NftError.
    """
    output = _read_output(socket, _Table(nft.INET, but))
    if not output.starts:
        return ""
    rules = _read_rules(socket, output, port)
    for table, chain in sorted(output.starts):
        if _reaches(rules, table, chain, named=False, seen=set()):
            return f"table {table.name!r}, chain {chain!r} of nftables"
    return ""


def _read_output(socket: Nft, own: _Table) -> _Output:
    tables: set[_Table] = set()
    starts: set[tuple[_Table, str]] = set()
    for family, found in socket.dump(Message(nft.GET_CHAIN, 0)):
        table = _Table(family, nft.read_text(found[1]))
        if table == own or 4 not in found or nft.read_text(found.get(7, b"")) != "nat":
            continue
        hook = nft.attributes(found[4])
        if nft.read_number(hook.get(1, b"")) == _LOCAL_OUT:
            tables.add(table)
            starts.add((table, nft.read_text(found[3])))
    return _Output(tables, starts)


def _read_rules(socket: Nft, output: _Output, port: int) -> dict[tuple[_Table, str], list[_Rule]]:
    rules: dict[tuple[_Table, str], list[_Rule]] = {}
    for table in output.tables:
        question = Message(nft.GET_RULE, table.family, nft.text(1, table.name))
        sets = _Sets(socket, table, port)
        for _, found in socket.dump(question):
            rule = _understood(list(_expressions(found.get(4, b""))), port, sets.holds)
            rules.setdefault((table, nft.read_text(found[2])), []).append(rule)
    return rules


class _Sets:
    """The sets of one table that rules look ports up in; others are not read."""

    def __init__(self, socket: Nft, table: _Table, port: int) -> None:
        self._socket = socket
        self._table = table
        self._port = port
        self._known: dict[tuple[str, int], bool] = {}

    def holds(self, name: str, at: int) -> bool:
        """Whether a set has the port in its keys, `at` that byte of them."""
        if (name, at) not in self._known:
            self._known[name, at] = self._read(name, at)
        return self._known[name, at]

    def _read(self, name: str, at: int) -> bool:
        words = nft.text(1, self._table.name) + nft.text(2, name)
        try:
            answers = self._socket.dump(Message(nft.GET_ELEMENTS, self._table.family, words))
        except NftError:
            return False  # it went meanwhile
        elements = (
            nft.attributes(element)
            for _, found in answers
            for _, element in nft.items(found.get(3, b""))
        )
        return nft_ports.is_among(itertools.islice(elements, _MOST_ELEMENTS), self._port, at=at)


def _expressions(data: bytes) -> Iterator[tuple[str, nft.Attributes]]:
    for _, item in nft.items(data):
        found = nft.attributes(item)
        yield nft.read_text(found.get(1, b"")), nft.attributes(found.get(2, b""))


def _understood(
    expressions: list[tuple[str, nft.Attributes]], port: int, holds: Callable[[str, int], bool]
) -> _Rule:
    redirects = False
    jumps: list[str] = []
    ports = nft_ports.Ports(port, holds)
    for name, found in expressions:
        match name:
            case "match":
                match_name = nft.read_text(found.get(1, b""))
                ports.say(iptables.names_destination(match_name, found.get(3, b""), port))
            case "target":
                redirects |= nft.read_text(found.get(1, b"")) in _TARGETS
            case "immediate" if 2 in found:
                verdict = nft.attributes(nft.attributes(found[2]).get(2, b""))
                if nft.read_number(verdict.get(1, b"")) in _JUMPS:
                    jumps.append(nft.read_text(verdict.get(2, b"")))
            case _:
                redirects |= name in _REDIRECTS
        ports.follow(name, found)
    return _Rule(ports.about, redirects, tuple(jumps))


def _reaches(
    rules: dict[tuple[_Table, str], list[_Rule]],
    table: _Table,
    chain: str,
    *,
    named: bool,
    seen: set[tuple[str, bool]],
) -> bool:
    """Whether a redirect follows in this chain, the port being `named` on the way to it."""
    if (chain, named) in seen:
        return False
    seen.add((chain, named))
    for rule in rules.get((table, chain), []):
        if rule.about is False:
            continue
        now = named or rule.about is True
        if now and rule.redirects:
            return True
        if any(_reaches(rules, table, to, named=now, seen=seen) for to in rule.jumps_to):
            return True
    return False
