"""Sets of numbers and prefixes against naive ones."""

import itertools
from ipaddress import IPv4Address, collapse_addresses, ip_network, summarize_address_range

from hypothesis import given
from hypothesis import strategies as st

from schemas import values
from services.ipam.core import blocks
from services.ipam.core.exclusions import Exclusions, Use
from services.ipam.core.ranges import Ranges
from services.ipam.core.table import Table

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 12)), max_size=30)
# Within one /24 and one /120, short and long ones, so that they overlap.
PREFIXES = st.builds(
    lambda base, number, longer: ip_network(
        (
            int(ip_network(base)[number >> 8 - longer << 8 - longer]),
            ip_network(base).prefixlen + longer,
        )
    ),
    st.sampled_from(["10.0.0.0/24", "fd00::/120"]),
    st.integers(0, 255),
    st.integers(0, 8),
)


def made_by(steps):
    ranges, model = Ranges(), set()
    for is_add, first, length in steps:
        numbers = range(first, first + length + 1)
        if is_add:
            ranges.add(first, first + length)
            model |= set(numbers)
        else:
            ranges.remove(first, first + length)
            model -= set(numbers)
    return ranges, model


@given(STEPS)
def test_ranges_are_a_set_of_numbers(steps):
    ranges, model = made_by(steps)

    assert {n for low, high in ranges for n in range(low, high + 1)} == model
    assert ranges.size == len(model)
    assert bool(ranges) == bool(model)
    assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(ranges))
    for number in range(-1, 75):
        assert (number in ranges) == (number in model)


@given(STEPS, st.integers(-1, 75), st.integers(0, 20))
def test_the_parts_of_a_stretch_are_what_the_set_has_there(steps, first, length):
    ranges, model = made_by(steps)
    parts = ranges.within(first, first + length)

    assert {n for low, high in parts for n in range(low, high + 1)} == model & set(
        range(first, first + length + 1)
    )


@given(STEPS, st.sets(st.integers(0, 75)))
def test_the_lowest_is_the_lowest_that_nothing_blocks(steps, blocked):
    ranges, model = made_by(steps)

    assert ranges.lowest(lambda n: n if n in blocked else None) == min(
        model - blocked, default=None
    )


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_range_is_made_of_the_fewest_blocks(first, length):
    found = blocks.blocks_of(4, first, first + length)
    expected = list(summarize_address_range(IPv4Address(first), IPv4Address(first + length)))

    assert [blocks.show(block) for block in found] == [str(net) for net in expected]
    assert blocks.largest_within(4, first, first + length)[2] == min(n.prefixlen for n in expected)


@given(st.lists(st.tuples(PREFIXES, st.sampled_from("abc")), max_size=20), PREFIXES, st.data())
def test_a_table_finds_all_that_overlaps_and_nothing_else(entries, asked, data):
    table: Table[str, str] = Table()
    for prefix, owner in entries:
        table.put(blocks.of_prefix(prefix), owner, f"{prefix} {owner}")
    dropped = data.draw(st.sets(st.sampled_from(entries))) if entries else set()
    for prefix, owner in dropped:
        table.drop(blocks.of_prefix(prefix), owner)
    left = {entry for entry in entries if entry not in dropped}

    found = [value for _, _, value in table.overlapping(blocks.of_prefix(asked))]
    assert sorted(found) == sorted(f"{p} {o}" for p, o in left if values.overlap(p, asked))
    number = int(asked.network_address)
    covering = [value for _, _, value in table.covering(asked.version, number)]
    assert sorted(covering) == sorted(
        f"{p} {o}" for p, o in left if p.version == asked.version and asked.network_address in p
    )


@given(st.lists(PREFIXES, max_size=12), st.lists(PREFIXES, max_size=12), PREFIXES)
def test_exclusions_know_what_is_clear_whatever_was_said_before(before, after, asked):
    exclusions = Exclusions()
    exclusions.put("one", [Use(p, "x") for p in before], is_hard=True)
    exclusions.put("one", [Use(p, "x") for p in after], is_hard=True)
    used = {int(a) for p in after if p.version == asked.version for a in p}
    block = blocks.of_prefix(asked)

    clear = {n for low, high in exclusions.clear_of(block) for n in range(low, high + 1)}
    assert clear == {int(a) for a in asked} - used
    assert (exclusions.overlapping(block) is None) == (clear == {int(a) for a in asked})
    merged = [ip_network(text) for text in exclusions.merged()]
    assert {a for p in merged for a in p} == {a for p in after for a in p}
    assert len(merged) == sum(
        len(list(collapse_addresses(p for p in after if p.version == v))) for v in (4, 6)
    )
