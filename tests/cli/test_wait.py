"""What counts as connected, and what is said when it is not."""

import json
from typing import Any

from cli.lab.wait import CONNECTED, STATUS, Goal, explain, is_connected, is_running


def a_pod(connected: str = "", shown: dict[str, str] | None = None) -> dict[str, Any]:
    items = [{"interface": name, "state": state} for name, state in (shown or {}).items()]
    conditions = [{"type": CONNECTED, "status": connected}] if connected else []
    return {
        "metadata": {
            "namespace": "default",
            "annotations": {STATUS: json.dumps(items)} if items else {},
        },
        "spec": {"nodeName": "node1"},
        "status": {
            "phase": "Running",
            "conditions": conditions,
            "containerStatuses": [{"name": "main", "state": {"running": {}}}],
        },
    }


def test_connected_is_a_true_condition_about_this_annotation():
    assert is_connected(a_pod("True", {"nsm-1": "ready"}), "svc/nsm-1")
    assert is_connected(a_pod("True"), "")
    assert not is_connected(a_pod("False", {"nsm-1": "ready"}), "svc/nsm-1")
    assert not is_connected(a_pod(), "svc/nsm-1")


def test_a_condition_about_the_annotation_before_an_edit_does_not_count():
    assert not is_connected(a_pod("True", {"nsm-1": "ready"}), "svc/nsm-1, other/nsm-2")
    assert not is_connected(a_pod("True", {"nsm-1": "ready", "nsm-2": "ready"}), "svc/nsm-1")
    assert not is_connected(a_pod("True", {"nsm-1": "ready"}), "svc//nsm-1")


def test_the_reason_is_the_conditions_own():
    pod = a_pod("False")
    pod["status"]["conditions"][0] |= {
        "reason": "NoMatchingEndpoint",
        "message": "nobody offers it",
    }
    assert explain(pod, Goal.CONNECTED) == "NoMatchingEndpoint: nobody offers it"


def test_without_a_condition_the_status_is_pointed_at():
    assert "nsm status" in explain(a_pod(), Goal.CONNECTED)


def test_a_container_that_does_not_start_is_the_reason():
    pod = a_pod()
    waiting = {"reason": "CrashLoopBackOff", "message": "exit code 1"}
    pod["status"]["containerStatuses"][0]["state"] = {"waiting": waiting}
    assert not is_running(pod)
    assert explain(pod, Goal.CONNECTED) == "container main: CrashLoopBackOff: exit code 1"


def test_a_pod_of_an_unknown_node_says_so():
    pod = a_pod()
    pod["status"] = {"phase": "Pending"}
    assert "node1" in explain(pod, Goal.READY)
