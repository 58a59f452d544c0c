"""What we write on a Pod: one annotation and one condition, in one request.

The status of a Pod may be written together with its metadata, so both change at once and nobody sees one without
the other. Always about the Pod of a given UID: the API server refuses when another one has taken its name.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.watcher.adapters.kube import STRATEGIC, Kube
from services.watcher.model import Condition, Pod


async def write_status(
    kube: Kube,
    pod: Pod,
    *,
    condition: Condition,
    turned: bool,
    annotations: Mapping[str, str | None],
) -> Pod:
    """Set a condition and annotations, None removes one. The Pod as it is then.

    `turned`: the condition's status was another one until now.
    """
    told = msgspec.to_builtins(condition)
    if turned:
        told["lastTransitionTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata: dict[str, Any] = {"uid": pod.uid}
    if annotations:
        metadata["annotations"] = dict(annotations)
    body = {"metadata": metadata, "status": {"conditions": [told]}}
    path = f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}/status"
    return msgspec.json.decode(await kube.patch(path, body, content_type=STRATEGIC), type=Pod)
