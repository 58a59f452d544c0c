"""Who else redirects a port that local programs send to: nftables, and iptables on top of nftables, read back.

Looked at are the chains that the output hook runs as `nat`, and what they jump to. A rule counts that names
the port, by itself or in a set, and redirects it, itself or by a chain that it jumps to. A redirect of every
port does not count: it is no redirect of ours to quarrel with.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from services._node import iptables, nft
from services._node.nft import Message, Nft, NftError

_LOCAL_OUT = 3
_JUMPS = frozenset({0xFFFFFFFD, 0xFFFFFFFC})  # jump, goto
_REDIRECTS = frozenset({"redir", "nat"})
_TARGETS = frozenset({"REDIRECT", "DNAT"})  # of iptables


class _Table(NamedTuple):
    family: int
    name: str


class _Rule(NamedTuple):
    """What of a rule counts here."""

    names_port: bool
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
    wanted = struct.pack(">H", port)
    sets: dict[tuple[_Table, str], bool] = {}

    def holds_port(table: _Table, name: str) -> bool:
        key = table, name
        if key not in sets:
            sets[key] = _set_holds(socket, table, name, wanted)
        return sets[key]

    rules: dict[tuple[_Table, str], list[_Rule]] = {}
    for table in output.tables:
        question = Message(nft.GET_RULE, table.family, nft.text(1, table.name))
        for _, found in socket.dump(question):
            chain = nft.read_text(found[2])
            rule = _understood(
                list(_expressions(found.get(4, b""))),
                port,
                lambda name, table=table: holds_port(table, name),  # type: ignore[misc]
            )
            rules.setdefault((table, chain), []).append(rule)
    return rules


def _set_holds(socket: Nft, table: _Table, name: str, wanted: bytes) -> bool:
    """Whether a set has the port among its keys, as a key of its own or as a part of one."""
    question = Message(nft.GET_ELEMENTS, table.family, nft.text(1, table.name) + nft.text(2, name))
    try:
        answers = socket.dump(question)
    except NftError:
        return False  # it went meanwhile
    for _, found in answers:
        for _, element in nft.items(found.get(3, b"")):
            key = nft.attributes(nft.attributes(element).get(1, b"")).get(1, b"")
            # Parts of a concatenated key stand in registers of four bytes each.
            if wanted in {key[at : at + 2] for at in range(0, len(key), 4)}:
                return True
    return False


def _expressions(data: bytes) -> Iterator[tuple[str, nft.Attributes]]:
    for _, item in nft.items(data):
        found = nft.attributes(item)
        yield nft.read_text(found.get(1, b"")), nft.attributes(found.get(2, b""))


def _understood(
    expressions: list[tuple[str, nft.Attributes]], port: int, holds_port: Callable[[str], bool]
) -> _Rule:
    names_port = redirects = False
    jumps: list[str] = []
    for name, found in expressions:
        match name:
            case "cmp":
                value = nft.attributes(found.get(3, b"")).get(1, b"")
                equal = nft.read_number(found.get(2, b"")) == 0
                names_port |= (
                    equal and value[-2:] == struct.pack(">H", port) and len(value) in {2, 4}
                )
            case "range":
                low, high = (nft.attributes(found.get(kind, b"")).get(1, b"") for kind in (3, 4))
                names_port |= len(low) == 2 and nft.read_number(low) <= port <= nft.read_number(
                    high
                )
            case "lookup":
                names_port |= holds_port(nft.read_text(found.get(1, b"")))
            case "match":
                match_name = nft.read_text(found.get(1, b""))
                names_port |= iptables.names_destination(match_name, found.get(3, b""), port)
            case "target":
                redirects |= nft.read_text(found.get(1, b"")) in _TARGETS
            case "immediate":
                verdict = nft.attributes(nft.attributes(found.get(2, b"")).get(2, b""))
                if nft.read_number(verdict.get(1, b"")) in _JUMPS:
                    jumps.append(nft.read_text(verdict.get(2, b"")))
            case _:
                redirects |= name in _REDIRECTS
    return _Rule(names_port, redirects, tuple(jumps))


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
        now = named or rule.names_port
        if now and rule.redirects:
            return True
        if any(_reaches(rules, table, to, named=now, seen=seen) for to in rule.jumps_to):
            return True
    return False
