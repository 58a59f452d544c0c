"""The definitions of our objects, applied by field manager `nsm`, and never over somebody else's.

The group `networkservicemesh.io` is not ours alone: another mesh may have its own NetworkService installed, and
whoever overwrites that takes its objects away from it. A server-side apply without force refuses where another
manager owns what we would change, and names it.
"""

from datetime import UTC, datetime
from pathlib import Path

import yaml

from tools.kube import LABELS, Api, InstallFailed, Object, checked

DEFINITIONS = Path(__file__).parent.parent / "k8s" / "base" / "crds"
MANAGER = "nsm"
REASON = "DefinitionsRefused"
_CONFLICT = 409
_ROOT = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_REMEDY = (
    "another mesh's objects live by this definition: remove that mesh, or, if the definition is an older one of"
    " ours, give it to us with: kubectl apply --server-side --force-conflicts --field-manager=nsm -f k8s/base/crds"
)


def install(api: Api, *, job_uid: str = "", folder: Path = DEFINITIONS) -> list[str]:
    """Apply what stands in the files; one line each. Raises InstallFailed, and says so in an event."""
    said = []
    for path in sorted(folder.glob("*.yaml")):
        definition: Object = yaml.safe_load(path.read_text())
        name = definition["metadata"]["name"]
        status, body = api.ask("APPLY", f"{_ROOT}/{name}?fieldManager={MANAGER}", definition)
        if status == _CONFLICT:
            message = f"CustomResourceDefinition {name} belongs to {_owners(body)}; {_REMEDY}"
            _tell(api, message, job_uid)
            raise InstallFailed(message)
        checked(status, body, name)
        said.append(f"CustomResourceDefinition {name} is as it should be")
    return said


def _owners(body: Object) -> str:
    """Who owns which fields, in the server's words."""
    causes = (body.get("details") or {}).get("causes") or []
    told = [f"{each.get('field')}: {each.get('message')}" for each in causes]
    return "; ".join(told) or str(body.get("message"))


def _tell(api: Api, message: str, job_uid: str) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event = {
        "metadata": {"generateName": "nsm-install.", "labels": LABELS},
        "involvedObject": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": "nsm-install",
            "namespace": api.namespace,
            "uid": job_uid,
        },
        "type": "Warning",
        "reason": REASON,
        "message": message[:1024],  # more the API server does not take
        "source": {"component": "nsm-install"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    status, body = api.ask("POST", f"/api/v1/namespaces/{api.namespace}/events", event)
    checked(status, body, "event")
