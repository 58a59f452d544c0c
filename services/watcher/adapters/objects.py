"""What we write on objects of our own kinds: their status.

Always on the version we judged. The API server passes over a UID in the patch of a custom object's status,
but no two objects ever have the same version.
"""

from typing import Any

import msgspec

from services.watcher.adapters.kube import Kube
from services.watcher.model import NetworkService, NetworkServiceEndpoint, OurObject

GROUP = "/apis/networkservicemesh.io/v1"
PLURALS: dict[type[OurObject], str] = {
    NetworkService: "networkservices",
    NetworkServiceEndpoint: "networkserviceendpoints",
}


async def write_status(
    kube: Kube, found: OurObject, status: dict[str, Any], *, version: str
) -> OurObject:
    """Set fields of the status, None removes one. The object as it is then."""
    body = {"metadata": {"resourceVersion": version}, "status": status}
    namespace, name = found.ref
    path = f"{GROUP}/namespaces/{namespace}/{PLURALS[type(found)]}/{name}/status"
    return msgspec.json.decode(await kube.patch(path, body), type=type(found))
