"""Each reason has words of its own, and they stand by themselves: on a page, in a status, in an explanation."""

import re
from collections import Counter

import pytest

from schemas import reasons

GROUPS = {"objects": reasons.OBJECTS, "logins": reasons.LOGINS}


@pytest.mark.parametrize("group", GROUPS)
def test_no_two_reasons_mean_the_same(group):
    meanings = Counter(reason.meaning for reason in GROUPS[group].values())

    assert [meaning for meaning, times in meanings.items() if times > 1] == []


@pytest.mark.parametrize("group", GROUPS)
def test_no_reason_points_to_another_place_of_a_page(group):
    elsewhere = re.compile(r"\bsee (above|below)\b|\b(above|below)$")

    for name, reason in GROUPS[group].items():
        for text in (reason.meaning, reason.remedy):
            assert not elsewhere.search(text), f"{name}: {text}"
