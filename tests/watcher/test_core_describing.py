"""Describing: what our own objects say of themselves, and what is left as it is."""

import msgspec
import pytest

from schemas.grant import Collision, Lack, Pool, PoolFigures, Trouble
from services.watcher import model
from services.watcher.core.describing import MOST, Facts, describe, differs
from services.watcher.core.tally import Counts
from services.watcher.model import Problem
from tests.builders import a_connection
from tests.builders import an_endpoint as an_offer
from tests.watcher.builders import an_endpoint, an_object, read

THEN, NOW = "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"
KEYS = [a_connection(name).key for name in ("a", "b", "c")]


def endpoint(*, generation=1, status=None):
    written = an_endpoint()
    written["metadata"]["generation"] = generation
    return read(model.NetworkServiceEndpoint, {**written, "status": status})


def counts(*, pods=1, **connections):
    found = Counts(candidates={an_offer(pod=f"pod-{at}").key for at in range(pods)})
    keys = iter(KEYS)
    for state, members in found.connections.items():
        members |= {next(keys) for _ in range(connections.pop(state, 0))}
    assert not connections
    return found


def a_pool(*families, **fields):
    figures = families or (
        PoolFigures(family=4, prefixes=("172.16.1.0/24",), size=254, used=2, free=252),
    )
    return Pool(namespace="default", endpoint="vpn", families=figures, **fields)


def told(found=None, *, now=NOW, **facts):
    found = found or endpoint()
    return describe(found, Facts(**facts), shown=found.shown, now=now)


def condition(status, kind):
    return next((each for each in status["conditions"] if each["type"] == kind), None)


def says(status, kind):
    found = condition(status, kind)
    return found and (found["status"], found["reason"])


def test_an_endpoint_tells_its_pods_clients_and_addresses():
    status = told(counts=counts(pods=2, ready=1), pool=a_pool())
    assert (status["endpoints"], status["clients"], status["free"]) == (2, 1, 252)
    assert status["prefixes"] == ["172.16.1.0/24"]
    assert status["pools"] == [
        {
            "family": 4,
            "size": 254,
            "used": 2,
            "held": 0,
            "excluded": 0,
            "free": 252,
            "largestFree": "",
        }
    ]
    assert status["automatic"] is False
    assert [says(status, kind) for kind in ("Accepted", "PrefixCollision", "Forwarding")] == [
        ("True", "Accepted"),
        ("False", "NoCollision"),
        ("True", "Connected"),
    ]


def test_a_network_service_tells_its_pods_and_clients_and_nothing_of_addresses():
    found = read(model.NetworkService, an_object("vpn"))
    status = told(found, counts=counts(pods=2, ready=1))
    assert {**status, "conditions": len(status["conditions"])} == {
        "observedGeneration": 0,
        "endpoints": 2,
        "clients": 1,
        "conditions": 1,
    }


def test_of_two_families_the_fuller_one_says_what_is_free():
    families = (
        PoolFigures(family=4, prefixes=("172.16.1.0/24",), size=254, free=7),
        PoolFigures(family=6, prefixes=("2001:db8::/48",), size=2**80, free=2**80),
    )
    status = told(pool=a_pool(*families))
    assert status["free"] == 7
    assert status["pools"][1]["free"] == MOST


def test_a_spec_that_is_not_understood_is_not_accepted():
    problem = Problem(reason="InvalidSpec", message="spec.ipam: no; write another")
    found = condition(told(problem=problem), "Accepted")
    assert (found["status"], found["reason"]) == ("False", "InvalidSpec")
    assert found["message"] == "spec.ipam: no; write another"


def test_a_collision_names_both_prefixes_the_user_and_the_remedy():
    collisions = (
        Collision(
            prefix="172.16.1.0/24", overlaps="172.16.0.0/16", used_by="Pod CIDR of node node1"
        ),
        Collision(prefix="10.96.0.0/12", overlaps="10.96.0.0/16", used_by="Service CIDR"),
    )
    found = condition(told(pool=a_pool(collisions=collisions)), "PrefixCollision")
    assert (found["status"], found["reason"]) == ("True", "PrefixCollision")
    assert found["message"] == (
        "prefix 172.16.1.0/24 overlaps 172.16.0.0/16 (Pod CIDR of node node1); "
        "route 10.96.0.0/12 overlaps 10.96.0.0/16 (Service CIDR); "
        "what overlaps is not given, 252 of 254 addresses are free beside it: nothing needs to be done while these "
        "suffice; "
        "a connection with such a route is refused, choose another destination or give the prefix free"
    )


@pytest.mark.parametrize(
    ("excluded", "used", "prefix", "reason"),
    [
        (2, 0, "172.16.1.0/24", "UsedAround"),
        (8, 246, "172.16.1.0/24", "UsedAround"),  # clients come and go: no part of the judgement
        (127, 0, "172.16.1.0/24", "UsedAround"),
        (128, 0, "172.16.1.0/24", "PrefixCollision"),
        (2, 0, "10.96.0.0/12", "PrefixCollision"),  # no prefix of it: a route
    ],
)
def test_the_reason_of_a_collision_tells_whether_anything_is_to_be_done(
    excluded, used, prefix, reason
):
    collision = Collision(prefix=prefix, overlaps="172.16.1.0/25", used_by="x")
    family = PoolFigures(
        family=4,
        prefixes=("172.16.1.0/24",),
        size=254,
        excluded=excluded,
        used=used,
        free=254 - excluded - used,
    )
    pool = a_pool(family, collisions=(collision,))
    found = condition(told(pool=pool), "PrefixCollision")
    assert (found["status"], found["reason"]) == ("True", reason)
    assert ("nothing needs to be done" in found["message"]) == (reason == "UsedAround")


@pytest.mark.parametrize(
    ("connections", "expected"),
    [
        ({}, ("Unknown", "NoClients")),
        ({"waiting": 1}, ("Unknown", "Connecting")),
        ({"ready": 2, "waiting": 1}, ("True", "Connected")),
        ({"ready": 1, "failed": 2}, ("True", "SomeFailed")),
        ({"failed": 1, "waiting": 1}, ("False", "AllFailed")),
    ],
)
def test_an_endpoint_forwards_when_one_of_its_connections_is_ready(connections, expected):
    status = told(counts=counts(**connections), failing="nsm-1 of Pod x/y (KernelError: no)")
    assert says(status, "Forwarding") == expected
    assert ("KernelError" in condition(status, "Forwarding")["message"]) == (
        "failed" in connections
    )


def test_without_a_pod_nobody_can_tell_whether_it_collides():
    assert says(told(), "PrefixCollision") == ("Unknown", "NoEndpoint")


def test_what_is_not_understood_is_not_judged():
    problem = Problem(reason="InvalidSpec", message="no")
    assert says(told(problem=problem), "PrefixCollision") == ("Unknown", "InvalidSpec")


def test_while_its_pool_is_on_its_way_nothing_is_said_of_collisions():
    assert condition(told(counts=counts(pods=1)), "PrefixCollision") is None


def test_the_time_of_a_condition_changes_with_its_word_alone():
    first = told(counts=counts(ready=1), pool=a_pool(), now=THEN)
    later = told(endpoint(status=first), counts=counts(ready=2), pool=a_pool())
    assert {each["lastTransitionTime"] for each in later["conditions"]} == {THEN}
    lost = told(endpoint(status=first), counts=counts(failed=1), pool=a_pool())
    assert condition(lost, "Forwarding")["lastTransitionTime"] == NOW
    assert condition(lost, "Accepted")["lastTransitionTime"] == THEN


def test_describing_what_is_described_changes_nothing():
    facts = {"counts": counts(ready=1, failed=1), "failing": "x", "pool": a_pool()}
    first = told(**facts, now=THEN)
    again = told(endpoint(status=first), **facts)
    assert again == first
    assert not differs(first, again)
    assert differs({}, first)


def test_a_generation_that_was_seen_is_told():
    first = told(now=THEN)
    later = told(endpoint(generation=2, status=first))
    assert later["observedGeneration"] == 2
    assert {each["observedGeneration"] for each in later["conditions"]} == {2}
    assert differs(first, later)


def test_what_only_ipam_knows_stays_until_ipam_has_told_everything():
    first = told(counts=counts(ready=2), pool=a_pool(), now=THEN)
    problem = Problem(reason="InvalidSpec", message="no")
    later = told(endpoint(status=first), settled=False, counts=counts(pods=0), problem=problem)
    assert later["endpoints"] == 0
    for field in ("clients", "free", "prefixes", "pools"):
        assert later[field] == first[field]
    assert says(later, "Accepted") == ("False", "InvalidSpec")
    for kind in ("PrefixCollision", "Forwarding"):
        assert condition(later, kind) == condition(first, kind)


def test_a_silent_node_ends_no_forwarding():
    first = told(counts=counts(ready=1), now=THEN)
    silent = {"counts": counts(silent=1)}
    kept = told(endpoint(status=first), **silent, heard=False)
    assert condition(kept, "Forwarding") == condition(first, "Forwarding")
    heard = told(endpoint(status=first), **silent)
    assert says(heard, "Forwarding") == ("Unknown", "Connecting")


def test_a_condition_of_somebody_else_stays():
    foreign = {"type": "Programmed", "status": "True"}
    status = told(endpoint(status={"conditions": [foreign, "junk", {"status": "True"}]}))
    assert status["conditions"][-1] == foreign
    assert len(status["conditions"]) == 4


@pytest.mark.parametrize("junk", ["x", [1], {"conditions": "x"}, 5])
def test_a_status_that_makes_no_sense_is_replaced(junk):
    assert differs(endpoint(status=junk).shown, told(endpoint(status=junk)))


def test_what_it_no_longer_has_is_removed():
    first = told(pool=a_pool())
    later = told(endpoint(status=first))
    assert later["free"] is None and later["pools"] is None
    assert differs(first, later)
    assert msgspec.json.encode(later)


def test_a_pool_that_is_mostly_covered_needs_another_prefix():
    covered = PoolFigures(family=4, prefixes=("172.16.1.0/24",), size=254, excluded=200, free=54)
    collision = Collision(prefix="172.16.1.0/24", overlaps="172.16.1.0/25", used_by="user")
    found = condition(told(pool=a_pool(covered, collisions=(collision,))), "PrefixCollision")

    assert found["status"] == "True"
    assert "54 of 254 addresses are free beside it: choose another prefix" in found["message"]


def test_a_family_without_automatic_prefixes_is_told_with_who_has_them():
    lack = Lack(family=4, supernets=("100.112.0.0/12",), taken_by="100.64.0.0/10 (user)")
    status = told(pool=a_pool(automatic=True, lacks=(lack,)))

    assert says(status, "PrefixCollision") == ("True", "NoPrefixes")
    message = condition(status, "PrefixCollision")["message"]
    assert "no automatic IPv4 prefix is left of 100.112.0.0/12: 100.64.0.0/10 (user)" in message


def test_what_ipam_finds_wrong_with_an_endpoint_is_told_on_it():
    trouble = Trouble(reason="BadEndpoint", message="declares the route 10.20.0.0/16 via …")
    status = told(pool=a_pool(trouble=trouble))

    assert says(status, "Accepted") == ("False", "BadEndpoint")
    assert "via …; new clients are refused" in condition(status, "Accepted")["message"]
