"""Which request is looked at next."""

from typing import Any

from schemas.codec import Tombstone
from schemas.subjects import RequestKey
from services.ipam.service.agenda import Agenda
from services.ipam.service.following import Following, Mirrors
from services.ipam.service.past import Past
from tests.ipam.builders import a_request, an_endpoint, granted


def key(pod: str) -> RequestKey:
    return RequestKey("default", pod, "nsm-1")


def taken(agenda: Agenda) -> list[str]:
    found = []
    while (each := agenda.take()) is not None:
        found.append(each.pod)
    assert not agenda
    return found


def test_who_leaves_goes_first_the_others_in_the_order_they_were_touched() -> None:
    agenda = Agenda()
    for pod in ("c", "a", "b"):
        agenda.want(key(pod), "vpn")
    agenda.unwant(key("a"))
    assert taken(agenda) == ["a", "c", "b"]


def test_who_is_touched_twice_is_looked_at_once() -> None:
    agenda = Agenda()
    agenda.want(key("a"), "vpn")
    agenda.want(key("b"), "vpn")
    agenda.touch([key("b"), key("a")])
    agenda.touch_services(["vpn"])
    assert taken(agenda) == ["a", "b"]


def test_a_change_of_a_network_service_concerns_who_asks_for_it_now() -> None:
    agenda = Agenda()
    agenda.want(key("a"), "vpn")
    agenda.want(key("b"), "vpn")
    agenda.want(key("c"), "nat")
    agenda.want(key("b"), "nat")
    taken(agenda)
    agenda.touch_services(["nat", "unknown"])
    assert taken(agenda) == ["b", "c"]


def test_room_concerns_who_waits_and_nobody_who_left() -> None:
    agenda = Agenda()
    for pod in ("a", "b", "c"):
        agenda.want(key(pod), "vpn")
    taken(agenda)
    agenda.waiting |= {key("c"), key("a")}
    agenda.unwant(key("a"))
    agenda.touch_waiting()
    assert taken(agenda) == ["a", "c"]
    agenda.touch_waiting()
    assert taken(agenda) == ["c"]


def test_who_comes_back_before_it_was_looked_at_stays() -> None:
    agenda = Agenda()
    agenda.want(key("a"), "vpn")
    agenda.unwant(key("a"))
    agenda.want(key("a"), "vpn")
    assert taken(agenda) == ["a"]


def test_a_beginning_forgets_what_was_due() -> None:
    agenda = Agenda()
    agenda.want(key("a"), "vpn")
    agenda.want(key("b"), "vpn")
    agenda.begin([key("b"), key("gone")])
    assert taken(agenda) == ["gone", "b"]


def test_who_is_in_a_hurry_comes_before_all_others_that_stay_and_only_once() -> None:
    agenda = Agenda()
    for pod in ("a", "b", "c", "d"):
        agenda.want(key(pod), "vpn")
    agenda.touch_services(["vpn"])
    agenda.unwant(key("a"))
    agenda.hurry([key("d"), key("c")])
    assert len(agenda) == 4
    assert taken(agenda) == ["a", "d", "c", "b"]


def test_who_hurried_and_left_is_only_leaving() -> None:
    agenda = Agenda()
    agenda.want(key("a"), "vpn")
    agenda.hurry([key("a")])
    agenda.unwant(key("a"))
    assert taken(agenda) == ["a"]


def test_when_an_endpoint_pod_changes_those_on_it_come_first() -> None:
    nothing: Any = None  # it is told everything here
    following = Following(Mirrors(nothing, nothing, nothing), Past(), supernets=())
    pods = [an_endpoint(pod=f"e{number}") for number in range(2)]
    for endpoint in pods:
        following.follow(endpoint.key, endpoint)
    for number in range(4):
        request = a_request(f"c{number}")
        following.follow(request.key, request)
        granted(following.state, request)
    assert len(taken(following.agenda)) == 4

    following.follow(pods[1].key, Tombstone())
    assert taken(following.agenda) == ["c1", "c3", "c0", "c2"]
