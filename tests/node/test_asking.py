from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services._node import asking
from services._node.asking import Heard, Question

MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
PAIRS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)


@given(MACS, MACS, PAIRS)
def test_a_question_is_understood_as_the_senders_and_no_answer(
    mac: str, peer_mac: str, addresses: tuple[IPv4Address | IPv6Address, ...]
) -> None:
    own, peer = map(str, addresses)
    frame = asking.render(Question("nsm0", mac, own, peer_mac, peer))

    heard = asking.understand(frame)

    assert heard is not None
    assert ip_address(heard.peer) == ip_address(own)
    assert (heard.mac, heard.is_answer) == (asking.packed_mac(peer_mac), False)


@given(st.binary(max_size=100))
def test_any_frame_is_understood_or_not_but_harms_nobody(frame: bytes) -> None:
    assert isinstance(asking.understand(frame), Heard | None)


@pytest.mark.parametrize(
    ("answer", "peer"),
    [
        ("02aa 02bb 0806 0001 0800 0604 0002", "172.16.1.1"),
        ("02aa 02bb 86dd 60000000 0020 3aff", "2001:db8::1"),
    ],
    ids=["arp", "neighbour advertisement"],
)
def test_an_answer_names_the_address_that_is_there(answer: str, peer: str) -> None:
    head = bytes.fromhex(answer.replace("02aa", "0200000000aa").replace("02bb", "0200000000bb"))
    packed = ip_address(peer).packed
    if len(packed) == 4:
        frame = head + bytes(6) + packed + bytes(10)
    else:
        frame = head + packed + bytes(16) + bytes.fromhex("88000000 60000000") + packed

    assert asking.understand(frame) == Heard(bytes.fromhex("0200000000aa"), peer, is_answer=True)
