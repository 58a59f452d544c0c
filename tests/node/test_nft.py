"""nftables in real namespaces: transactions, ownership, and finding other people's redirects."""

import errno
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services._node import iptables, netns, nft, nft_ports, nft_rules, nft_ruleset
from services._node.nft import Message, Nft, NftError
from tests.node import legacy_iptables

UDP = nft_rules.meta_is(nft_rules.L4PROTO, bytes([17]))
TO_OTHER = nft_rules.redirect(15053)


@pytest.fixture
def socket(place: Path) -> Iterator[Nft]:
    with Nft(place) as made:
        yield made


def tables(socket: Nft) -> set[str]:
    found = socket.dump(Message(nft.GET_TABLE, 0))
    return {nft.read_text(attributes[1]) for _, attributes in found}


def test_a_transaction_happens_as_a_whole_or_not_at_all(socket: Nft) -> None:
    with pytest.raises(NftError, match="add nftables rule: No such file") as caught:
        socket.transact(
            [nft_rules.table("one"), nft_rules.table("two"), nft_rules.rule("one", "absent", [])]
        )

    assert caught.value.errno == errno.ENOENT
    assert tables(socket) == set()
    socket.transact([nft_rules.table("one"), nft_rules.table("two")])
    assert tables(socket) == {"one", "two"}


def test_an_owned_table_ends_with_its_socket_and_not_before(place: Path, socket: Nft) -> None:
    with Nft(place) as owner:
        owner.transact([nft_rules.table("ours", flags=nft.OWNER)])
        assert tables(socket) == {"ours"}
        with pytest.raises(NftError, match="not permitted"):
            socket.transact([nft_rules.delete_table("ours")])

    assert tables(socket) == set()


def test_a_socket_knows_its_namespace(place: Path, socket: Nft) -> None:
    with Nft() as home:
        assert home.cookie != socket.cookie


def test_long_dumps_are_read_to_their_end(socket: Nft) -> None:
    names = [f"table-{n:03}" for n in range(900)]
    for at in range(0, len(names), 100):
        socket.transact([nft_rules.table(name) for name in names[at : at + 100]])

    assert tables(socket) == set(names)


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40))))
def test_attributes_are_read_as_they_were_written(attributes) -> None:
    data = b"".join(nft.raw(kind, value) for kind, value in attributes)

    assert list(nft.items(data)) == attributes


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    for _, value in nft.items(data):
        nft.attributes(value)


# -- redirects of a port


def foreign(
    socket: Nft,
    *rules: tuple[str, list[bytes]],
    chains: tuple[str, ...] = (),
    hook: int = nft_rules.LOCAL_OUT,
    sets: tuple[int, ...] = (),
) -> None:
    """A table of somebody else with an output chain, and rules as (chain, expressions)."""
    socket.transact(
        [
            nft_rules.table("sidecar"),
            nft_rules.base_chain("sidecar", "output", kind="nat", hook=hook, priority=-100),
            *(nft_rules.chain("sidecar", name) for name in chains),
            nft_rules.port_set("sidecar", "ports", timeout_seconds=60),
            *(nft_rules.add_port("sidecar", "ports", port) for port in sets),
            *(nft_rules.rule("sidecar", chain, body) for chain, body in rules),
        ]
    )


def found(socket: Nft) -> str:
    return nft_ruleset.find_redirect(socket, port=53, but="nsm_dns")


NAMED = [*UDP, *nft_rules.port_is(53)]


@pytest.mark.parametrize(
    "make",
    [
        lambda s: foreign(s, ("output", [*NAMED, *TO_OTHER])),
        lambda s: foreign(
            s, ("output", [*UDP, *nft_rules.port_is_in("ports"), *TO_OTHER]), sets=(5353, 53)
        ),
        lambda s: foreign(
            s, ("output", [*NAMED, *nft_rules.jump("dns")]), ("dns", TO_OTHER), chains=("dns",)
        ),
        lambda s: foreign(
            s, ("output", nft_rules.jump("all")), ("all", [*NAMED, *TO_OTHER]), chains=("all",)
        ),
    ],
    ids=["rule", "set", "jump", "chain"],
)
def test_a_redirect_of_the_port_is_found(socket: Nft, make: Callable[[Nft], None]) -> None:
    assert found(socket) == ""

    make(socket)

    assert found(socket) == "table 'sidecar', chain 'output' of nftables"


@pytest.mark.parametrize(
    "make",
    [
        lambda s: foreign(s, ("output", [*UDP, *nft_rules.port_is(54), *TO_OTHER])),
        lambda s: foreign(s, ("output", [*UDP, *TO_OTHER])),
        lambda s: foreign(s, ("output", [*NAMED, *nft_rules.back()])),
        lambda s: foreign(
            s, ("output", [*UDP, *nft_rules.port_is_in("ports"), *TO_OTHER]), sets=(5353,)
        ),
        lambda s: foreign(s, ("output", [*NAMED, *TO_OTHER]), hook=0),
        lambda s: foreign(
            s,
            ("output", [*NAMED, *nft_rules.jump("dns")]),
            ("dns", nft_rules.back()),
            chains=("dns",),
        ),
    ],
    ids=["other-port", "every-port", "no-redirect", "other-set", "prerouting", "harmless-jump"],
)
def test_what_does_not_redirect_the_port_is_none(socket: Nft, make: Callable[[Nft], None]) -> None:
    make(socket)

    assert found(socket) == ""


def expression(name: str, *inside: bytes) -> bytes:
    return nft.nested(1, nft.text(1, name), nft.nested(2, *inside))


def load(base: int, offset: int, size: int, register: int = 1) -> bytes:
    return expression(
        "payload",
        *(nft.number(n, value) for n, value in enumerate((register, base, offset, size), 1)),
    )


def compare(operation: int, value: bytes) -> bytes:
    return expression(
        "cmp", nft.number(1, 1), nft.number(2, operation), nft.nested(3, nft.raw(1, value))
    )


def between(low: int, high: int, *, inverted: bool) -> bytes:
    bounds = (nft.nested(n, nft.raw(1, value.to_bytes(2))) for n, value in ((3, low), (4, high)))
    return expression("range", nft.number(1, 1), nft.number(2, int(inverted)), *bounds)


def look_up(name: str, *, inverted: bool = False) -> bytes:
    return expression("lookup", nft.text(1, name), nft.number(2, 1), nft.number(5, int(inverted)))


DPORT, SPORT = load(2, 2, 2), load(2, 0, 2)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([SPORT, compare(0, b"\0\x35")], False),
        ([load(1, 16, 4), compare(0, bytes([10, 0, 0, 53]))], False),
        ([load(1, 16, 4), compare(0, bytes([10, 0, 0, 53])), DPORT, compare(0, b"\0\x50")], False),
        ([load(2, 0, 4), compare(0, b"\x10\0\0\x35")], True),
        ([DPORT, compare(1, b"\0\x35")], False),
        ([DPORT, compare(1, b"\0\x50")], False),
        ([DPORT, compare(5, b"\0\x32"), compare(3, b"\0\x3c")], True),
        ([DPORT, compare(5, b"\0\x36"), compare(3, b"\0\x3c")], False),
        ([DPORT, between(50, 60, inverted=False)], True),
        ([DPORT, between(50, 60, inverted=True)], False),
        ([DPORT, look_up("ports")], True),
        ([SPORT, look_up("ports")], False),
        ([DPORT, look_up("ports", inverted=True)], False),
    ],
    ids=[
        "source-port",
        "address",
        "address-and-other-port",
        "both-ports",
        "every-port-but-this",
        "every-port-but-another",
        "range",
        "other-range",
        "within",
        "not-within",
        "set",
        "set-of-source-ports",
        "not-in-set",
    ],
)
def test_only_the_destination_port_counts(
    socket: Nft, body: list[bytes], *, expected: bool
) -> None:
    foreign(socket, ("output", [*UDP, *body, *TO_OTHER]), sets=(53,))

    assert bool(found(socket)) is expected


def test_a_chain_after_a_port_is_left_out_counts_no_more(socket: Nft) -> None:
    foreign(
        socket,
        ("output", [*NAMED, *nft_rules.jump("dns")]),
        ("dns", [*UDP, DPORT, compare(1, b"\0\x35"), *TO_OTHER]),
        chains=("dns",),
    )

    assert found(socket) == ""


def big_set(socket: Nft, key_type: int, size: int, count: int) -> None:
    """A table `big` with a set of so many numbers."""
    body = nft.text(1, "big") + nft.text(2, "all") + nft.number(3, 0)
    body += nft.number(4, key_type) + nft.number(5, size) + nft.number(10, 1)
    socket.transact(
        [
            nft_rules.table("big"),
            nft_rules.base_chain("big", "out", kind="nat", hook=nft_rules.LOCAL_OUT, priority=-100),
            Message(nft.NEW_SET, nft.INET, body, nft.CREATE),
        ]
    )
    for first in range(0, count, 500):
        numbers = range(first, min(first + 500, count))
        keys = (nft.nested(1, nft.nested(1, nft.raw(1, n.to_bytes(size)))) for n in numbers)
        elements = nft.text(1, "big") + nft.text(2, "all") + nft.nested(3, *keys)
        socket.transact([Message(nft.NEW_ELEMENTS, nft.INET, elements, nft.CREATE)])


def test_a_set_of_something_else_is_not_read(socket: Nft, monkeypatch: pytest.MonkeyPatch) -> None:
    big_set(socket, 7, 4, 1000)
    body = [*UDP, load(1, 16, 4), look_up("all"), *TO_OTHER]
    socket.transact([nft_rules.rule("big", "out", body)])
    asked: list[int] = []
    dump = Nft.dump

    def noted(self: Nft, question: Message) -> list[tuple[int, nft.Attributes]]:
        asked.append(question.kind)
        return dump(self, question)

    monkeypatch.setattr(Nft, "dump", noted)

    assert found(socket) == ""
    assert nft.GET_ELEMENTS not in asked


def test_of_a_huge_set_only_a_part_is_read(socket: Nft, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counting(elements: Iterable[nft.Attributes], _port: int, *, at: int) -> bool:
        read.append(len(list(elements)))
        return bool(at)

    monkeypatch.setattr(nft_ports, "is_among", counting)
    big_set(socket, 13, 2, 12_000)
    socket.transact([nft_rules.rule("big", "out", [*UDP, DPORT, look_up("all"), *TO_OTHER])])

    assert found(socket) == ""
    assert read == [10_000]


def an_element(key: int, *, ends: bool = False, high: int | None = None) -> nft.Attributes:
    made = {1: nft.raw(1, key.to_bytes(2)), 3: (1 if ends else 0).to_bytes(4)}
    return made if high is None else made | {10: nft.raw(1, high.to_bytes(2))}


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(1, 10)), max_size=5), st.integers(1, 120)
)
def test_intervals_of_a_set_hold_what_is_between_their_bounds(gaps, port: int) -> None:
    """As the kernel lists them: from the last to the first, an end being the first that is not in it."""
    elements, inside, at = [an_element(0, ends=True)], set[int](), 0
    for gap, length in gaps:
        at += gap
        elements += [an_element(at), an_element(at + length, ends=True)]
        inside |= set(range(at, at + length))
        at += length

    assert nft_ports.is_among(reversed(elements), port, at=0) is (port in inside)


def test_both_bounds_may_stand_in_one_element() -> None:
    assert nft_ports.is_among([an_element(50, high=60)], 53, at=0)
    assert not nft_ports.is_among([an_element(54, high=60)], 53, at=0)


def test_our_own_table_is_no_foreign_one(socket: Nft) -> None:
    foreign(socket, ("output", [*NAMED, *TO_OTHER]))

    assert nft_ruleset.find_redirect(socket, port=53, but="sidecar") == ""


# -- iptables


def compat(name: str, data: bytes, kind: str) -> bytes:
    return expression(kind, nft.text(1, name), nft.number(2, 0), nft.raw(3, data))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(53, 53, True), (1, 1024, True), (54, 60, False), (0, 65535, False)],
)
def test_iptables_on_top_of_nftables_is_understood(
    socket: Nft, low: int, high: int, expected: bool
) -> None:
    ports = struct.pack("=HHHHH6x", 0, 0xFFFF, low, high, 0)
    elsewhere = struct.pack("=IIIIHH4x", 1, 2, 0, 0, 1553, 1553)
    body = [compat("udp", ports, "match"), compat("REDIRECT", elsewhere, "target")]
    protocol = nft.nested(5, nft.number(1, 17), nft.number(2, 0))
    ipv4 = [
        Message(nft.NEW_TABLE, nft.IPV4, nft.text(1, "nat"), nft.CREATE),
        Message(
            nft.NEW_CHAIN,
            nft.IPV4,
            nft.text(1, "nat")
            + nft.text(3, "OUTPUT")
            + nft.nested(4, nft.number(1, 3), nft.number(2, -100))
            + nft.text(7, "nat"),
            nft.CREATE,
        ),
        Message(
            nft.NEW_RULE,
            nft.IPV4,
            nft.text(1, "nat") + nft.text(2, "OUTPUT") + nft.nested(4, *body) + protocol,
            nft.CREATE | nft.APPEND,
        ),
    ]
    try:
        socket.transact(ipv4)
    except NftError as exc:
        pytest.skip(f"no iptables on top of nftables in this kernel: {exc}")

    assert bool(found(socket)) is expected


@pytest.mark.parametrize("by_chain", [False, True], ids=["rule", "chain"])
@pytest.mark.parametrize(("port", "expected"), [(53, "table 'nat' of iptables"), (54, "")])
def test_iptables_before_nftables_is_understood(
    place: Path, port: int, expected: str, by_chain: bool
) -> None:
    assert iptables.find_redirect(place, port=53) == ""
    if not legacy_iptables.redirect(str(place), port, by_chain=by_chain):
        pytest.skip("no iptables of the old kind in this kernel")

    assert iptables.find_redirect(place, port=53) == expected


def test_looking_makes_no_table(place: Path) -> None:
    iptables.find_redirect(place, port=53)

    assert netns.in_netns(place, _names) == ""


def _names() -> str:
    try:
        return Path("/proc/thread-self/net/ip_tables_names").read_text()
    except OSError:
        return ""


def ports_of(protocol: str, low: int, high: int, *, inverted: bool = False) -> bytes:
    """What iptables keeps of `--dport LOW:HIGH`."""
    ports = struct.pack("=HHHH", 0, 65535, low, high)
    return ports + bytes(3 if protocol == "tcp" else 0) + bytes([2 if inverted else 0, 0, 0])


def multiport(
    kind: int, *ports: int, ranges: tuple[int, ...] = (), inverted: bool = False
) -> bytes:
    """The later revision; `ranges` are places of ports that begin one."""
    flags = bytes(at in ranges for at in range(15))
    return struct.pack("=BB15H", kind, len(ports), *ports, *[0] * (15 - len(ports))) + (
        flags + bytes([inverted])
    )


@pytest.mark.parametrize(
    ("match", "data", "expected"),
    [
        ("udp", ports_of("udp", 53, 53), True),
        ("udp", ports_of("udp", 50, 60), True),
        ("udp", ports_of("udp", 54, 60), False),
        ("udp", ports_of("udp", 53, 53, inverted=True), False),
        ("tcp", ports_of("tcp", 53, 53, inverted=True), False),
        ("tcp", ports_of("tcp", 80, 80, inverted=True), None),
        ("udp", struct.pack("=HHHHBBBB", 53, 53, 0, 65535, 0, 0, 0, 0), None),
        ("tcp", b"", None),
        ("multiport", struct.pack("=BB15H", 1, 2, 80, 53, *[0] * 13), True),
        ("multiport", struct.pack("=BB15H", 1, 1, 80, 53, *[0] * 13), False),
        ("multiport", multiport(1, 50, 60, ranges=(0,)), True),
        ("multiport", multiport(1, 50, 60), False),
        ("multiport", multiport(2, 80, 53), True),
        ("multiport", multiport(0, 80, 53), None),
        ("multiport", multiport(1, 80, 53, inverted=True), False),
        ("multiport", multiport(1, 80, 50, 60, ranges=(1,), inverted=True), False),
        ("multiport", multiport(1, 80, inverted=True), None),
        ("owner", struct.pack("=HHHH", 53, 53, 53, 53), None),
    ],
)
def test_a_match_of_iptables_names_a_destination_port(match, data, expected) -> None:
    assert iptables.names_destination(match, data, 53) is expected
