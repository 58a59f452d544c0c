"""When absence counts, each reason why not by itself."""

from typing import Any

import pytest

from schemas.subjects import LeaderKey
from services._runtime import streams
from services._runtime.absence import Absence
from tests.builders import a_connection, a_leader

GONE = a_connection().key
IPAM = LeaderKey("ipam")
NOW = "this one"


def said(*, stale: bool = False, sequence: int = 7, **fields: Any) -> Absence:
    """What ipam's word is."""
    values = {"complete": True, "incarnations": {streams.GRANT: NOW}, **fields}
    leftovers = {IPAM} if stale else set()
    found = Absence(streams.GRANT, {IPAM: a_leader(**values)}, leftovers, {IPAM: sequence})
    found.note(IPAM)
    return found


def test_it_counts_by_a_complete_word_that_is_no_newer_than_what_was_read() -> None:
    assert said().counts(GONE, 7, incarnation=NOW)
    assert said().counts(GONE, 8, incarnation=NOW)
    assert not said().counts(GONE, 6, incarnation=NOW)
    assert not said().counts(GONE, -1, incarnation=NOW), "nobody follows it"


@pytest.mark.parametrize(
    "word",
    [
        {"complete": False},
        {"stale": True},
        {"incarnations": {streams.GRANT: "another"}},
        {"incarnations": {}},
        {"silent": ("node1",)},
    ],
    ids=str,
)
def test_any_doubt_of_the_word_keeps_what_is_absent(word: dict[str, Any]) -> None:
    assert not said(**word).counts(GONE, 100, incarnation=NOW)


def test_a_silent_node_keeps_only_what_is_its_own() -> None:
    other = a_connection(node="node2").key
    assert said(silent=("node1",)).counts(other, 7, incarnation=NOW)


def test_without_a_word_nothing_is_gone_and_in_the_live_stream_everything() -> None:
    assert not Absence(streams.GRANT, {}, set(), {}).counts(GONE, 100, incarnation=NOW)
    assert Absence(streams.LIVE, {}, set(), {}).counts(GONE, 0, incarnation=NOW)


def test_an_authority_is_never_absent_by_its_own_word() -> None:
    assert not said().counts(IPAM, 100, incarnation=NOW)


def test_the_newest_word_is_that_of_who_says_complete_and_is_there() -> None:
    assert said().newest_word(incarnation=NOW) == 7
    assert said(complete=False).newest_word(incarnation=NOW) == 0
    gone = said()
    gone.forget(IPAM)
    assert gone.newest_word(incarnation=NOW) == 0
