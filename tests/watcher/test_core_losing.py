"""Losing: what neither Kubernetes nor the plumber hears of is neither connected nor not."""

import msgspec
import pytest

from services.watcher.core import report as reporting
from services.watcher.core.report import Facts, Showing
from services.watcher.model import CONDITION
from tests.watcher.builders import pod
from tests.watcher.test_core_report import NOTHING, granted, news, refused, told

CLIENT = pod(asks="svc/nsm-1")
CONNECTED = reporting.as_shown(told(CLIENT, granted))
LOST = reporting.as_shown(told(CLIENT, granted, CONNECTED, node_ready=False, heard=False))


@pytest.mark.parametrize(
    ("node_ready", "heard", "shown", "status"),
    [
        (True, True, CONNECTED, "True"),
        (True, False, CONNECTED, "True"),  # a plumber that is restarted, or the bus is away
        (False, True, CONNECTED, "True"),  # only the API server does not hear of it
        (False, False, CONNECTED, "Unknown"),
        (False, False, NOTHING, "Unknown"),
        # A watcher that begins to lead turns nothing before it has listened.
        (False, None, CONNECTED, "True"),
        (False, None, LOST, "Unknown"),
        (True, None, LOST, "True"),
        (False, True, LOST, "True"),
        (True, False, LOST, "True"),
    ],
)
def test_a_node_is_lost_when_neither_hears_of_it(node_ready, heard, shown, status):
    found = told(CLIENT, granted, shown, node_ready=node_ready, heard=heard)
    assert found.status == status
    assert (found.reason == "NodeLost") == (status == "Unknown")


def test_a_lost_pod_says_which_node_what_was_connected_and_what_to_do():
    assert LOST.message == (
        "node node1 is not Ready, or gone, and its plumber is silent: whether what was connected there still works is "
        "not known: nsm-1 (default/svc); see the node: kubectl describe node node1"
    )


def test_what_was_last_heard_goes_on_being_shown_and_nothing_is_announced():
    found = told(CLIENT, granted, CONNECTED, node_ready=False, heard=False)
    assert found.annotation == CONNECTED.annotation
    assert news(CONNECTED, found) == []
    assert news(LOST, told(CLIENT, granted, LOST)) == []


def test_what_was_not_connected_is_not_because_its_node_is_lost():
    for facts, reason in ((refused, "NoEndpoint"), (lambda _: Facts(), "Connecting")):
        found = told(CLIENT, facts, node_ready=False, heard=False)
        assert (found.status, found.reason) == ("False", reason)
    after = told(CLIENT, lambda _: Facts(settled=False), LOST, node_ready=False, heard=None)
    assert after.status == "Unknown"  # kept: nobody has told everything yet


def test_who_asks_for_nothing_is_connected_on_a_lost_node_too():
    gated = pod(asks="", gated=True)
    assert told(gated, granted, node_ready=False, heard=False).status == "True"


def test_a_lost_pod_is_read_back_as_one():
    condition = {"type": CONDITION, "status": "Unknown", "reason": "NodeLost", "message": "x"}
    found = reporting.showing(pod(asks="svc/nsm-1", conditions=[condition]))
    assert (found.lost, found.connected, found.status) == (True, False, "Unknown")
    other = reporting.showing(
        pod(asks="svc/nsm-1", conditions=[{**condition, "reason": "Whatever"}])
    )
    assert not other.lost
    assert Showing().status == ""
    assert msgspec.structs.replace(LOST, lost=False).told != LOST.told
