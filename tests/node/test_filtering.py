"""The kernel drops what a filter does not name."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from services._node import filtering

KINDS = st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=8, unique=True)


@given(KINDS, st.lists(st.integers(0, 0xFFFF), max_size=8))
def test_only_what_is_named_passes(named: list[int], others: list[int]) -> None:
    sent = [*others, *named]
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        filtering.attach(other, filtering.one_of(named, half_at=4))
        other.setblocking(False)
        for kind in sent:
            one.send(b"1234" + kind.to_bytes(2, "big") + b"rest")

        heard = [int.from_bytes(other.recv(64)[4:6], "big") for kind in sent if kind in named]

        assert heard == [kind for kind in sent if kind in named]
