"""Our definitions are applied, and never over another mesh's: who owns what is told in the log and by an event."""

import pytest
import yaml

from tools import install_definitions
from tools.install_definitions import DEFINITIONS, install
from tools.kube import InstallFailed

NAMES = [
    yaml.safe_load(path.read_text())["metadata"]["name"] for path in DEFINITIONS.glob("*.yaml")
]
SERVICES = "customresourcedefinitions/networkservices.networkservicemesh.io"


def test_every_definition_is_applied_as_it_stands_in_its_file(server, api):
    assert len(NAMES) == 2
    assert len(install(api)) == 2
    for path in DEFINITIONS.glob("*.yaml"):
        wanted = yaml.safe_load(path.read_text())
        stored = server.objects[f"customresourcedefinitions/{wanted['metadata']['name']}"]
        assert stored["spec"] == wanted["spec"]


def test_a_definition_of_another_mesh_stays_and_its_owner_is_told(server, api):
    theirs = {"metadata": {"name": "networkservices.networkservicemesh.io"}, "spec": {"x": 1}}
    server.keep(SERVICES, theirs)
    server.owners[SERVICES] = "helm"
    with pytest.raises(InstallFailed, match=r'belongs to \.spec\.versions: conflict with "helm"'):
        install(api, job_uid="uid-of-the-job")
    assert server.objects[SERVICES]["spec"] == {"x": 1}
    (event,) = [each for path, each in server.objects.items() if path.startswith("events/")]
    assert event["reason"] == install_definitions.REASON
    assert event["involvedObject"]["uid"] == "uid-of-the-job"
    assert "remove that mesh" in event["message"]
    assert len(event["message"]) <= 1024


def test_a_missing_right_is_told_by_the_servers_words(server, api):
    server.denied.add(("PATCH", "customresourcedefinitions"))
    with pytest.raises(InstallFailed, match="403 Forbidden: no right"):
        install(api)
