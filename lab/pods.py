"""What a Pod's object says about it, computed from what runs. Pure: no process, no clock, no store."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

# A Pod that stands for a process which runs already: no kubelet starts anything for it.
MIRROR = "kubernetes.io/config.mirror"

Json = dict[str, Any]
Phase = Literal["waiting", "running", "terminated"]


class ContainerState(msgspec.Struct, frozen=True, kw_only=True):
    """One container now. Times are RFC 3339."""

    phase: Phase = "waiting"
    reason: str = "ContainerCreating"
    message: str = ""
    exit_code: int = 0
    restarts: int = 0
    started_at: str = ""
    finished_at: str = ""
    pid: int = 0


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A Pod's network namespace and its addresses."""

    id: str
    netns: str
    ip: str
    host_ip: str
    started_at: str


def is_mirror(pod: Json) -> bool:
    return MIRROR in (pod["metadata"].get("annotations") or {})


def containers_of(pod: Json) -> list[Json]:
    return list(pod.get("spec", {}).get("containers") or [])


def init_containers_of(pod: Json) -> list[Json]:
    return list(pod.get("spec", {}).get("initContainers") or [])


def restart_policy(pod: Json) -> str:
    return str(pod.get("spec", {}).get("restartPolicy") or "Always")


def starts_again(policy: str, exit_code: int) -> bool:
    """Whether a container that ended is started again."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def backoff_seconds(restarts: int) -> float:
    """1, 2, 4 … 30: a tenth of a kubelet's, so that a lab shows the loop without making people wait."""
    return float(min(2 ** min(restarts, 10), 30))


def command_of(container: Json) -> list[str]:
    """Command and arguments; empty: the container pauses for ever."""
    return [*(container.get("command") or []), *(container.get("args") or [])]


def environment_of(container: Json, pod: Json, sandbox: Sandbox) -> dict[str, str]:
    """Values as written and the fieldRefs a lab can know; an unknown reference is empty."""
    metadata, spec = pod["metadata"], pod.get("spec", {})
    fields: dict[str, str] = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": sandbox.ip,
        "status.podIPs": sandbox.ip,
        "status.hostIP": sandbox.host_ip,
    }
    env = {"HOSTNAME": metadata["name"]}
    for entry in container.get("env") or []:
        reference = (entry.get("valueFrom") or {}).get("fieldRef") or {}
        if reference:
            env[entry["name"]] = fields.get(reference.get("fieldPath", ""), "")
        else:
            env[entry["name"]] = str(entry.get("value") or "")
    return env


def phase_of(pod: Json, states: Mapping[str, ContainerState]) -> str:
    """Pending, Running, Succeeded or Failed, as a kubelet says it."""
    own = [states.get(c["name"], ContainerState()) for c in containers_of(pod)]
    policy = restart_policy(pod)
    init_failed = any(
        states.get(c["name"], ContainerState()).phase == "terminated"
        and states[c["name"]].exit_code != 0
        for c in init_containers_of(pod)
    )
    if init_failed and policy == "Never":
        return "Failed"
    ended = [s for s in own if s.phase == "terminated" and not starts_again(policy, s.exit_code)]
    if own and len(ended) == len(own):
        return "Succeeded" if all(s.exit_code == 0 for s in own) else "Failed"
    if any(s.phase == "running" or s.restarts or s.phase == "terminated" for s in own):
        return "Running"
    return "Pending"


def status_of(
    pod: Json,
    *,
    sandbox: Sandbox | None,
    states: Mapping[str, ContainerState],
    now: str,
) -> Json:
    """The whole status a kubelet writes. Conditions of others are kept as they stand."""
    before: Json = pod.get("status") or {}
    phase = phase_of(pod, states)
    ended = phase in ("Succeeded", "Failed")
    status: Json = {**before, "phase": phase, "qosClass": "BestEffort"}
    if sandbox is not None:
        status |= {
            "hostIP": sandbox.host_ip,
            "hostIPs": [{"ip": sandbox.host_ip}],
            "podIP": sandbox.ip,
            "podIPs": [{"ip": sandbox.ip}],
            "startTime": before.get("startTime") or sandbox.started_at,
        }
    inits = init_containers_of(pod)
    status["containerStatuses"] = [_container_status(c, states) for c in containers_of(pod)]
    if inits:
        status["initContainerStatuses"] = [_container_status(c, states, init=True) for c in inits]
    initialized = all(_completed(states.get(c["name"])) for c in inits)
    running = all(
        states.get(c["name"], ContainerState()).phase == "running" for c in containers_of(pod)
    )
    containers_ready = running and not ended and sandbox is not None
    gates = _gates(pod, before)
    ours = {
        "PodScheduled": (True, ""),
        "PodReadyToStartContainers": (sandbox is not None and not ended, ""),
        "Initialized": (initialized, "" if initialized else "ContainersNotInitialized"),
        "ContainersReady": (
            containers_ready,
            "" if containers_ready else ("PodCompleted" if ended else "ContainersNotReady"),
        ),
        "Ready": (
            containers_ready and not gates,
            ""
            if containers_ready and not gates
            else "PodCompleted"
            if ended
            else ("ReadinessGatesNotReady" if containers_ready else "ContainersNotReady"),
        ),
    }
    messages = {"Ready": f"readiness gates not True: {', '.join(gates)}" if gates else ""}
    status["conditions"] = _merge_conditions(before.get("conditions") or [], ours, messages, now)
    return status


def _completed(state: ContainerState | None) -> bool:
    return state is not None and state.phase == "terminated" and state.exit_code == 0


def _gates(pod: Json, status: Json) -> list[str]:
    """Readiness gates whose condition is not True."""
    wanted = [g["conditionType"] for g in pod.get("spec", {}).get("readinessGates") or []]
    true = {c.get("type") for c in status.get("conditions") or [] if c.get("status") == "True"}
    return [gate for gate in wanted if gate not in true]


def _merge_conditions(
    before: list[Json], ours: Mapping[str, tuple[bool, str]], messages: Mapping[str, str], now: str
) -> list[Json]:
    old = {c.get("type"): c for c in before}
    merged: list[Json] = [c for c in before if c.get("type") not in ours]
    for kind, (true, reason) in ours.items():
        value = "True" if true else "False"
        condition: Json = {"type": kind, "status": value, "lastProbeTime": None}
        was = old.get(kind, {})
        since = was.get("lastTransitionTime") if was.get("status") == value else None
        condition["lastTransitionTime"] = since or now
        if reason:
            condition["reason"] = reason
        if not true and messages.get(kind):
            condition["message"] = messages[kind]
        merged.append(condition)
    return merged


def _container_status(
    container: Json, states: Mapping[str, ContainerState], *, init: bool = False
) -> Json:
    state = states.get(container["name"], ContainerState())
    shown: Json
    if state.phase == "running":
        shown = {"running": {"startedAt": state.started_at}}
    elif state.phase == "terminated":
        times = {"startedAt": state.started_at, "finishedAt": state.finished_at}
        shown = {
            "terminated": {
                "exitCode": state.exit_code,
                "reason": state.reason,
                "message": state.message,
                **{name: at for name, at in times.items() if at},  # "" is no time for kubectl
            }
        }
    else:
        shown = {"waiting": {"reason": state.reason}}
        if state.message:
            shown["waiting"]["message"] = state.message
    status: Json = {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "ready": _completed(state) if init else state.phase == "running",
        "started": state.phase == "running",
        "restartCount": state.restarts,
        "state": shown,
    }
    if state.pid:
        status["containerID"] = f"nsm-lab://{state.pid}"
    return status
