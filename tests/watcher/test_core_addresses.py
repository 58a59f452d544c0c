"""Single addresses in use: those that no known prefix covers, in messages that a change touches one of."""

import ipaddress
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import encode
from schemas.intent import PrefixesInUse, UsedPrefix
from schemas.subjects import PrefixKey, parse
from services.watcher.core.addresses import Addresses


def used(*texts):
    return [UsedPrefix(prefix=text, used_by="x") for text in texts]


def pods():
    return Addresses("pod", "Pod")


def told(addresses):
    """Prefix: by what, of every message gathered now."""
    return {
        each.prefix: each.used_by
        for message in addresses.gather().values()
        if message is not None
        for each in message.prefixes
    }


def ref(name):
    return ("default", name)


def test_an_address_outside_of_every_known_prefix_is_told_with_its_pod():
    addresses = pods()
    touched = addresses.put(ref("a"), (), ("10.0.5.7", "fd00::5:7"))
    assert told(addresses) == {"10.0.5.7/32": "Pod default/a", "fd00::5:7/128": "Pod default/a"}
    assert touched == {
        PrefixKey("pod", "10-0-5-0"),
        PrefixKey("pod", "fd00-0000-0000-0000-0000-0000-0005-0000"),
    }
    assert all(parse(key.subject) == key for key in touched)


def test_an_address_inside_a_known_prefix_is_not_told():
    addresses = pods()
    addresses.know("node1", used("10.0.5.0/24", "fd00::/64"))
    addresses.put(ref("a"), (), ("10.0.5.7", "fd00::5:7"))
    assert told(addresses) == {}


def test_what_becomes_known_later_takes_the_addresses_in_it_back():
    addresses = pods()
    addresses.put(ref("a"), (), ("10.0.5.7",))
    addresses.put(ref("b"), (), ("10.1.5.7",))
    addresses.gather()
    touched = addresses.know("kubeadm", used("10.0.0.0/16"))
    assert touched == {PrefixKey("pod", "10-0-5-0")}
    assert addresses.gather() == {PrefixKey("pod", "10-0-5-0"): None}
    addresses.know("kubeadm", ())
    assert told(addresses) == {"10.0.5.7/32": "Pod default/a"}


def test_a_prefix_that_two_tell_is_known_until_both_are_gone():
    addresses = pods()
    addresses.put(ref("a"), (), ("10.0.5.7",))
    addresses.know("one", used("10.0.0.0/16"))
    addresses.know("two", used("10.0.0.0/16"))
    addresses.gather()
    assert addresses.know("one", ()) == {PrefixKey("pod", "10-0-5-0")}
    assert told(addresses) == {}
    addresses.know("two", ())
    assert told(addresses) == {"10.0.5.7/32": "Pod default/a"}


def test_neighbours_are_one_prefix_and_named_after_one_of_them():
    addresses = pods()
    for at in range(4):
        addresses.put(ref(f"p{at}"), (), (f"10.0.5.{at}",))
    assert told(addresses) == {"10.0.5.0/30": "4 Pods, such as default/p0"}


def test_an_address_of_two_stays_until_both_are_gone():
    addresses = Addresses("service", "Service")
    addresses.put(ref("a"), (), ("192.0.2.1",))
    addresses.put(ref("b"), (), ("192.0.2.1",))
    assert told(addresses) == {"192.0.2.1/32": "Service default/a and 1 more"}
    addresses.put(ref("a"), ("192.0.2.1",), ())
    assert told(addresses) == {"192.0.2.1/32": "Service default/b"}
    addresses.put(ref("b"), ("192.0.2.1",), ())
    assert addresses.gather() == {PrefixKey("service", "192-0-2-0"): None}


def test_an_object_that_keeps_its_addresses_touches_nothing():
    addresses = pods()
    addresses.put(ref("a"), (), ("10.0.5.7", "fd00::7"))
    addresses.gather()
    assert addresses.put(ref("a"), ("10.0.5.7", "fd00::7"), ("10.0.5.7", "fd00:0::7")) == set()
    assert addresses.gather() == {}


def test_what_is_no_address_is_nothing():
    addresses = pods()
    assert addresses.put(ref("a"), (), ("", "None", "10.0.0.0/8")) == set()


def test_a_full_block_fits_a_message_however_long_the_names():
    addresses = pods()
    for at in range(0, 256, 2):
        long = ("n" * 63, f"{'p' * 240}-{at}")
        addresses.put(long, (), (str(ipaddress.ip_address((0xFD << 120) + at)),))
    (message,) = addresses.gather().values()
    assert message is not None
    assert len(encode(message)) < 100_000


def test_a_pod_among_a_hundred_thousand_costs_microseconds():
    addresses = pods()
    first = int(ipaddress.ip_address("10.0.0.0"))
    for at in range(100_000):
        addresses.put(ref(f"p{at}"), (), (str(ipaddress.ip_address(first + at)),))
    addresses.gather()
    begun = time.process_time()
    for at in range(200):
        addresses.put(ref(f"p{at}"), (str(ipaddress.ip_address(first + at * 300)),), ())
        assert len(addresses.gather()) == 1
        addresses.know("node", used(f"10.1.{at}.0/24"))
        addresses.gather()
    assert time.process_time() - begun < 2.0


# ---- the same as from scratch

ADDRESSES = st.builds(
    lambda family, at: str(ipaddress.ip_address(at + (0x0A000000 if family == 4 else 0xFD << 120))),
    st.sampled_from([4, 6]),
    st.integers(0, 600),
)
PREFIXES = st.builds(
    lambda address, length: str(
        ipaddress.ip_network(f"{address}/{length if '.' in address else 96 + length}", strict=False)
    ),
    ADDRESSES,
    st.sampled_from([0, 8, 16, 22, 23, 24, 25, 28, 31, 32]),
)
STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from("abcde"), st.sets(ADDRESSES, max_size=6)),
    st.tuples(st.just("know"), st.sampled_from("xyz"), st.sets(PREFIXES, max_size=2)),
    st.tuples(st.just("gather"), st.just(""), st.just(frozenset[str]())),
)


def expected(uses: dict[str, Any], known: dict[str, Any]) -> set[Any]:
    covering = [ipaddress.ip_network(text) for texts in known.values() for text in texts]
    addresses = {ipaddress.ip_address(text) for texts in uses.values() for text in texts}
    return {a for a in addresses if not any(a in each for each in covering)}


@given(st.lists(STEPS, max_size=30))
def test_whatever_comes_and_goes_exactly_the_uncovered_addresses_are_told_and_minimal(steps):
    addresses = pods()
    uses: dict[str, set[str]] = {}
    known: dict[str, set[str]] = {}
    standing: dict[PrefixKey, PrefixesInUse | None] = {}
    for verb, name, texts in [*steps, ("gather", "", set())]:
        match verb:
            case "put":
                addresses.put(ref(name), uses.get(name, ()), texts)
                uses[name] = texts
            case "know":
                addresses.know(name, used(*texts))
                known[name] = texts
            case "gather":
                standing |= addresses.gather()
                prefixes = [
                    ipaddress.ip_network(each.prefix)
                    for message in standing.values()
                    if message is not None
                    for each in message.prefixes
                ]
                assert {a for each in prefixes for a in each} == expected(uses, known)
                assert sum(each.num_addresses for each in prefixes) == len(expected(uses, known))
                for key, message in standing.items():
                    assert message is None or message.key == key
