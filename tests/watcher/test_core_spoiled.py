"""Who asks for what nobody serves hears which endpoint should, and only who asks for it."""

import pytest

from schemas.intent import Request
from services.watcher.core import spoiled
from services.watcher.core.spoiled import Spoiled
from services.watcher.model import Problem
from tests.builders import a_pod, a_refusal

BAD = Problem(reason="InvalidSpec", message="no")
A, B, CLIENT = ("default", "a"), ("default", "b"), ("default", "client")


def a_request(name: str = "vpn", namespace: str = "") -> Request:
    return Request(
        pod=a_pod(), interface="nsm-1", network_service=name, network_service_namespace=namespace
    )


@pytest.fixture
def known() -> Spoiled:
    found = Spoiled()
    found.ask(CLIENT, [], [a_request()])
    return found


def test_an_endpoint_is_idle_while_it_can_be_read_and_no_pod_serves(known):
    assert known.idle(A) is None
    known.put(A, ["vpn"])
    assert "NetworkServiceEndpoint default/a is there, but" in known.idle(A).message
    known.serve(A, 1)
    known.serve(A, 1)
    known.serve(A, -1)
    assert known.idle(A) is None
    known.serve(A, -1)
    assert known.all_idle() == [A]
    known.put(A, ["vpn"], BAD)
    assert known.all_idle() == []


def test_what_cannot_be_read_is_told_before_what_has_no_pod(known):
    known.put(A, ["vpn"])
    known.put(B, ["vpn", "web"], BAD)
    assert known.why("default", "vpn") == known.why("default", "web") == BAD
    assert known.why("far", "vpn") is None
    known.put(B, ["web"], BAD)
    assert known.why("default", "vpn") == known.idle(A)
    known.put(A, None)
    assert known.why("default", "vpn") is None


def test_only_those_hear_who_ask_for_it_and_are_not_served(known):
    known.ask(("default", "other"), [], [a_request("web")])
    known.ask(("far", "client"), [], [a_request(namespace="default")])
    asking = {CLIENT, ("far", "client")}
    assert known.put(A, ["vpn", "ssh"]) == asking
    assert known.put(A, ["vpn", "ssh"]) == set()  # nothing new
    assert known.put(A, ["vpn"], BAD) == asking
    assert known.put(A, ["ssh"], BAD) == asking
    known.serve(B, 1)
    assert known.put(B, ["vpn"]) == asking
    assert known.put(A, ["vpn"]) == set()  # somebody else serves
    assert known.put(A, ["ssh"], BAD) == set()
    known.serve(B, -1)
    assert known.put(B, None) == asking
    known.ask(CLIENT, [a_request()], [a_request("web")])
    assert known.put(B, ["vpn"]) == {("far", "client")}
    assert known.put(B, ["web"]) == {("far", "client"), CLIENT, ("default", "other")}


def test_who_heard_that_an_endpoint_has_no_pod_hears_of_its_first_and_of_its_last(known):
    known.put(A, ["vpn"])
    assert known.serve(A, 1) == {CLIENT}
    assert known.why("default", "vpn") is None
    assert known.serve(A, 1) == set()
    assert known.serve(A, -1) == set()
    assert known.serve(A, -1) == {CLIENT}
    assert known.why("default", "vpn") == known.idle(A)


def test_of_what_somebody_serves_nothing_is_said_of_others(known):
    known.put(A, ["vpn"])
    known.put(B, ["vpn"])
    known.serve(B, 1)
    assert known.why("default", "vpn") is None
    assert known.serve(A, 1) == known.serve(A, -1) == set()
    known.put(A, ["vpn"], BAD)
    assert known.why("default", "vpn") is None


def test_only_a_refusal_for_want_of_an_endpoint_is_told_in_other_words(known):
    known.put(A, ["vpn"])
    request = a_request()
    refusal = a_refusal()
    told = spoiled.explained(request, refusal, known.why)
    assert told.reason == "NoEndpoint"
    assert told.message.startswith("network service vpn: NetworkServiceEndpoint default/a is there")
    assert told.message.endswith(spoiled.remedy("default"))
    full = a_refusal(reason="PoolExhausted")
    assert spoiled.explained(request, full, known.why) == full
    assert spoiled.explained(a_request("web"), refusal, known.why) == refusal
