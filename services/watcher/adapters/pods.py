"""What we write on a Pod: one annotation and one condition.

Always about the Pod of a given UID: the API server refuses (409) when another one has taken its name.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from services.watcher.adapters.kube import STRATEGIC, Kube
from services.watcher.model import CONDITION, STATUS_ANNOTATION, Pod


async def write_annotation(kube: Kube, pod: Pod, text: str | None) -> Pod:
    """Set or, with None, remove the status annotation. The Pod as it is then."""
    metadata = {"uid": pod.uid, "annotations": {STATUS_ANNOTATION: text}}
    return _pod(await kube.patch(_path(pod), {"metadata": metadata}))


async def write_condition(
    kube: Kube, pod: Pod, *, connected: bool, reason: str, message: str
) -> Pod:
    """Set our condition. The Pod as it is then."""
    status = "True" if connected else "False"
    condition: dict[str, Any] = {
        "type": CONDITION,
        "status": status,
        "reason": reason,
        "message": message,
    }
    before = pod.condition(CONDITION)
    if before is None or before.status != status:
        condition["lastTransitionTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}
    return _pod(await kube.patch(_path(pod) + "/status", body, content_type=STRATEGIC))


def _path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}"


def _pod(body: bytes) -> Pod:
    return msgspec.json.decode(body, type=Pod)
