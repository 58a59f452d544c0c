"""The table of semantics: whatever up to three servers do, in any order, the specified answer at the specified time."""

import itertools

import pytest

from services.dns.core.ranking import Rank
from services.dns.core.tally import OUTCOMES
from tests.dns.behaviours import BEHAVIOURS, BY_NAME, LATE, reply_of, right_answer
from tests.dns.simulation import Sent, Simulation
from tests.dns.upstreams import a_profile, a_query, cluster, parsed, service

QUERY = a_query("a.example", number=0x1234)
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")
UPSTREAMS = (cluster(ADDRESSES[0]), service("x", ADDRESSES[1]), service("y", ADDRESSES[2]))
DELAYS = (0.01, 0.03, 0.06)
REPLIES: dict[tuple[str, bytes], bytes] = {}


def reply(name: str, packet: bytes) -> bytes:
    """Made once: the table asks the same question very often."""
    known = REPLIES.get((name, packet[2:]))
    if known is None:
        known = REPLIES[name, packet[2:]] = reply_of(name, b"\0\0" + packet[2:])
    return (
        bytes(a ^ b for a, b in zip(known[:2], packet[:2], strict=True)) + known[2:]
        if known
        else b""
    )


def answer(sent: Sent, name: str, delay: float) -> None:
    if name == "lossy" and not sent.again:
        return
    packet = reply(name, sent.packet)
    if packet and sent.again == (name == "lossy"):
        late = LATE if name == "late" else 0.0
        lane = 1 - sent.lane if name == "wrongport" else sent.lane
        sent.answer(delay + late, packet, lane)  # type: ignore[call-arg]


def outcome_of(servers: tuple[tuple[str, float], ...]) -> tuple[Rank, float]:
    by_address = dict(zip(ADDRESSES, servers, strict=False))
    simulation = Simulation(
        a_profile(*UPSTREAMS[: len(servers)]), lambda sent: answer(sent, *by_address[sent.address])
    )
    assert simulation.ask(QUERY, "client")
    simulation.run(5)
    [answered] = simulation.answers
    assert answered.message[:2] == QUERY[:2] and answered.client == "client"
    assert answered.message[12:].startswith(QUERY[12:])
    [count] = [n for n, found in enumerate(simulation.tally.datagrams) if found]
    assert OUTCOMES[count] == Rank(count).name.lower()
    check_content(answered.message, Rank(count))
    return Rank(count), answered.at - 100.0


def check_content(message: bytes, rank: Rank) -> None:
    code = message[3] & 0xF
    if rank in {Rank.POSITIVE, Rank.ALIAS}:
        assert code == 0 and (message[7] or message[2] & 2)
    else:
        expected = {Rank.NODATA: 0, Rank.NXDOMAIN: 3, Rank.REFUSED: 5}
        assert (code, message[7]) == (expected.get(rank, 2), 0)


def check(servers: tuple[tuple[str, float], ...]) -> None:
    found, expected = outcome_of(servers), right_answer(servers)
    assert (found[0], round(found[1], 6)) == (expected[0], round(expected[1], 6)), servers


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.name)
def test_one_server_alone(behaviour):
    check(((behaviour.name, 0.01),))


@pytest.mark.parametrize("first", BEHAVIOURS, ids=lambda b: b.name)
def test_every_pair_in_both_orders(first):
    for second in BEHAVIOURS:
        for delays in itertools.permutations(DELAYS[:2]):
            check(tuple(zip((first.name, second.name), delays, strict=True)))


@pytest.mark.parametrize("first", BEHAVIOURS, ids=lambda b: b.name)
def test_every_triple_in_every_order(first):
    for others in itertools.combinations_with_replacement(BEHAVIOURS, 2):
        names = (first.name, *(other.name for other in others))
        for delays in itertools.permutations(DELAYS):
            check(tuple(zip(names, delays, strict=True)))


def test_the_oracle_itself_by_hand():
    """A few rows written out, so that the table is not only measured by what computes it."""
    assert right_answer((("positive", 0.06), ("nxdomain", 0.01))) == (Rank.POSITIVE, 0.06)
    assert right_answer((("nodata", 0.01), ("nxdomain", 0.03))) == (Rank.NODATA, 0.03)
    assert right_answer((("silent", 0.01), ("nxdomain", 0.03))) == (Rank.NXDOMAIN, 2.0)
    late = right_answer((("silent", 0.01), ("late", 0.03)))
    assert (late[0], round(late[1], 6)) == (Rank.POSITIVE, 2.33)
    assert right_answer((("refused", 0.01), ("late", 0.03))) == (Rank.REFUSED, 2.0)
    assert right_answer((("wrongid", 0.01), ("garbage", 0.03))) == (Rank.NOTHING, 2.8)
    assert BY_NAME["lossy"].after == 0.4
    assert parsed(reply_of("barecname", QUERY)).rr[0].rtype == 5
