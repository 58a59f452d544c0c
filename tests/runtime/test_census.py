"""Census: what was read up to a sequence is in the stream, but for tombstones of which nobody can be sure."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import TOMBSTONE_TTL_SECONDS
from schemas.subjects import Key
from services._runtime.census import UNSURE_SECONDS, Census
from tests.builders import a_connection

FRESH, OLD = a_connection("fresh").key, a_connection("old").key


def test_only_what_was_read_up_to_there_counts():
    census = Census({FRESH: 3, OLD: 7})
    assert [census.least(last=last, now=0.0) for last in (2, 3, 6, 7, 9)] == [0, 1, 1, 2, 2]


def test_a_tombstone_counts_until_it_may_have_ended():
    census = Census({FRESH: 3, OLD: 7})
    census.note(OLD, is_tombstone=True, stored_at=1000.0)
    sure = 1000.0 + TOMBSTONE_TTL_SECONDS - UNSURE_SECONDS
    assert [census.least(last=7, now=now) for now in (1000.0, sure, sure + 1)] == [2, 2, 1]
    assert census.least(last=6, now=sure + 1) == 1  # that one is not counted twice
    census.note(OLD, is_tombstone=False)
    assert census.least(last=7, now=sure + 1) == 2


def test_a_tombstone_of_unknown_age_does_not_count():
    census = Census({FRESH: 3})
    census.note(FRESH, is_tombstone=True)
    assert census.least(last=3, now=1_700_000_000.0) == 0


PODS = st.sampled_from([a_connection(f"p{number}").key for number in range(5)])
STEPS = st.lists(st.tuples(PODS, st.booleans(), st.floats(0.0, 3000.0)), max_size=40)


@given(STEPS, st.data())
def test_a_stream_that_lost_nothing_never_holds_less(steps, data):
    """A stream as the server keeps it, and a reader who is ahead of what the server's answer is about."""
    sequences: dict[Key, int] = {}
    stored: dict[Key, float | None] = {}
    now = 0.0
    census = Census(sequences)
    states = [(0, 0.0, 0)]
    for sequence, (key, is_tombstone, pause) in enumerate(steps, start=1):
        now += pause
        stored[key] = now + TOMBSTONE_TTL_SECONDS if is_tombstone else None
        stored = {k: end for k, end in stored.items() if end is None or end > now}
        states.append((sequence, now, len(stored)))
    asked = data.draw(st.integers(0, len(steps)))
    last, at, messages = states[asked]
    now = 0.0
    for sequence, (key, is_tombstone, pause) in enumerate(steps, start=1):
        now += pause
        sequences[key] = sequence
        census.note(key, is_tombstone=is_tombstone, stored_at=now)
    assert census.least(last=last, now=at) <= messages
