"""No bytes from anyone break the resolver: 100,000 packets here, any number by `python -m tests.dns.fuzz`."""

import pytest

from tests.dns.fuzz import Fuzz

PACKETS = 25_000


@pytest.mark.parametrize("seed", range(4))
def test_no_packet_breaks_it_no_response_is_answered_and_nothing_is_kept(seed):
    Fuzz(seed).run(PACKETS)
