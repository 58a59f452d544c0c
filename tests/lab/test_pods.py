"""What a Pod's status says, from what runs."""

from typing import Any

import pytest

from lab import pods
from lab.pods import ContainerState, Sandbox

NOW = "2030-01-01T00:00:00Z"
LATER = "2030-01-01T00:01:00Z"
SANDBOX = Sandbox(id="s", netns="/n", ip="10.244.1.2", host_ip="172.18.0.11", started_at=NOW)
RUNNING = ContainerState(phase="running", reason="", started_at=NOW)
GATE = "networkservicemesh.io/connected"


def a_pod(*containers: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {"containers": [{"name": name} for name in containers or ("main",)], **spec},
    }


def ended(code: int, **more: Any) -> ContainerState:
    return ContainerState(phase="terminated", reason="x", exit_code=code, **more)


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in status["conditions"]}


def told(pod: dict[str, Any], states: dict[str, ContainerState], now: str = NOW) -> dict[str, Any]:
    return pods.status_of(pod, sandbox=SANDBOX, states=states, now=now)


@pytest.mark.parametrize(
    ("policy", "states", "phase"),
    [
        ("Always", {}, "Pending"),
        ("Always", {"main": RUNNING}, "Running"),
        ("Always", {"main": ended(0)}, "Running"),
        ("Always", {"main": ended(1)}, "Running"),
        ("Always", {"main": ContainerState(reason="CrashLoopBackOff", restarts=1)}, "Running"),
        ("OnFailure", {"main": ended(1)}, "Running"),
        ("OnFailure", {"main": ended(0)}, "Succeeded"),
        ("Never", {"main": ended(0)}, "Succeeded"),
        ("Never", {"main": ended(1)}, "Failed"),
    ],
)
def test_phase_follows_containers_and_restart_policy(policy, states, phase):
    assert pods.phase_of(a_pod(restartPolicy=policy), states) == phase


def test_a_pod_is_ready_when_all_its_containers_run():
    pod = a_pod("a", "b")
    assert conditions(told(pod, {"a": RUNNING}))["Ready"] == "False"
    both = conditions(told(pod, {"a": RUNNING, "b": RUNNING}))
    assert (both["ContainersReady"], both["Ready"]) == ("True", "True")


def test_a_readiness_gate_holds_ready_but_not_containers_ready():
    pod = a_pod(readinessGates=[{"conditionType": GATE}])
    status = told(pod, {"main": RUNNING})
    assert (conditions(status)["ContainersReady"], conditions(status)["Ready"]) == ("True", "False")
    assert GATE in next(c["message"] for c in status["conditions"] if c["type"] == "Ready")
    pod["status"] = {
        **status,
        "conditions": [*status["conditions"], {"type": GATE, "status": "True"}],
    }
    assert conditions(told(pod, {"main": RUNNING}))["Ready"] == "True"


def test_conditions_of_others_are_kept_as_they_stand():
    foreign = {"type": GATE, "status": "False", "reason": "Refused", "lastTransitionTime": "x"}
    pod = a_pod() | {"status": {"conditions": [foreign], "other": 1}}
    status = told(pod, {"main": RUNNING})
    assert foreign in status["conditions"]
    assert status["other"] == 1


def test_saying_the_same_again_changes_nothing():
    pod = a_pod()
    pod["status"] = told(pod, {"main": RUNNING})
    assert told(pod, {"main": RUNNING}, now=LATER) == pod["status"]


def test_a_condition_that_somebody_wrote_without_a_time_gets_one():
    pod = a_pod() | {"status": {"conditions": [{"type": "Ready", "status": "True"}, {}]}}
    status = told(pod, {"main": RUNNING})
    (ready,) = (c for c in status["conditions"] if c.get("type") == "Ready")
    assert ready["lastTransitionTime"] == NOW


def test_a_transition_gets_its_time():
    pod = a_pod()
    pod["status"] = told(pod, {})
    ready = next(
        c for c in told(pod, {"main": RUNNING}, now=LATER)["conditions"] if c["type"] == "Ready"
    )
    assert ready["lastTransitionTime"] == LATER


def test_init_containers_come_first():
    pod = a_pod(initContainers=[{"name": "init"}])
    assert conditions(told(pod, {}))["Initialized"] == "False"
    assert conditions(told(pod, {"init": ended(0)}))["Initialized"] == "True"
    never = a_pod(initContainers=[{"name": "init"}], restartPolicy="Never")
    assert pods.phase_of(never, {"init": ended(1)}) == "Failed"


def test_a_completed_pod_is_not_ready():
    status = told(a_pod(restartPolicy="Never"), {"main": ended(0)})
    assert status["phase"] == "Succeeded"
    assert conditions(status)["Ready"] == "False"


def test_environment_has_values_and_fields_of_the_pod():
    container = {
        "name": "main",
        "env": [
            {"name": "PLAIN", "value": "x"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "EMPTY"},
        ],
    }
    assert pods.environment_of(container, a_pod(), SANDBOX) == {
        "HOSTNAME": "p",
        "PLAIN": "x",
        "NAME": "p",
        "IP": "10.244.1.2",
        "EMPTY": "",
    }


def test_backoff_grows_to_half_a_minute():
    assert [pods.backoff_seconds(n) for n in range(7)] == [1, 2, 4, 8, 16, 30, 30]
