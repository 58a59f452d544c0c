"""Manifests: what is read, what an error names, what applying changed."""

import io
import sys
from pathlib import Path

import pytest

from lab.api.kinds import NAMESPACES, NETWORK_SERVICE_ENDPOINTS, PODS
from lab.api.manifests import ManifestError, read_paths, read_text

TWO = """
apiVersion: v1
kind: Namespace
metadata: {name: team}
---
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: team
  annotations: {networkservicemesh.io: vpn}
spec:
  containers: [{name: main, image: busybox}]
"""
ENDPOINT = """
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: vpn}
spec: {networkServices: [vpn]}
"""


def titles(manifests):
    return [manifest.title for manifest in manifests]


def test_documents_keep_their_order_and_number_and_empty_ones_are_nothing():
    manifests = read_text(TWO, source="two.yaml")
    assert titles(manifests) == ["namespace/team", "pod/web"]
    assert [manifest.place for manifest in manifests] == [
        "two.yaml, document 1",
        "two.yaml, document 3",
    ]


def test_the_namespace_is_default_unless_it_is_said():
    assert [m.namespace for m in read_text(TWO + "---" + ENDPOINT, source="x")] == [
        "",
        "team",
        "default",
    ]
    assert read_text(ENDPOINT, source="x", namespace="team")[0].namespace == "team"


def test_a_list_is_its_items_and_json_is_read_too():
    text = (
        '{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Namespace", '
    )
    text += '"metadata": {"name": "a"}}]}'
    assert titles(read_text(text, source="x.json")) == ["namespace/a"]
    assert titles(read_text(text, source="x.yaml")) == ["namespace/a"]


def test_a_folder_is_its_files_by_name(tmp_path):
    (tmp_path / "2.yml").write_text(ENDPOINT)
    (tmp_path / "1.yaml").write_text(TWO)
    (tmp_path / "notes.txt").write_text("not read")
    assert titles(read_paths([tmp_path])) == [
        "namespace/team",
        "pod/web",
        "networkserviceendpoint.networkservicemesh.io/vpn",
    ]


def test_dates_stay_text():
    text = TWO.replace("{networkservicemesh.io: vpn}", "{since: 2026-01-01}")
    assert read_text(text, source="x")[1].body["metadata"]["annotations"] == {"since": "2026-01-01"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b\n---\nc: [", r"x\.yaml, document 2: no YAML: line 3"),
        ("- 1", r"x\.yaml, document 1: no object but list"),
        ("kind: Pod", "document 1: apiVersion is missing"),
        ("apiVersion: v1", "document 1: kind is missing"),
        ("apiVersion: v1\nkind: Pod", r"Pod: metadata\.name is missing"),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}",
            r"the lab serves no Deployment \(apps/v1\); it knows ConfigMap",
        ),
    ],
)
def test_an_error_names_file_document_and_reason(text, said):
    with pytest.raises(ManifestError, match=said):
        read_text(text, source="x.yaml")


def test_a_missing_file_and_an_empty_folder_are_errors_that_name_them(tmp_path):
    with pytest.raises(ManifestError, match=r"nope\.yaml: cannot be read"):
        read_paths([tmp_path / "nope.yaml"])
    with pytest.raises(ManifestError, match=str(tmp_path)):
        read_paths([tmp_path])


async def test_applying_says_what_was_created_configured_and_left_alone(client, store):
    async def outcomes(text):
        return [a.outcome for a in await client.apply_all(read_text(text, source="x"))]

    assert await outcomes(TWO) == ["created", "created"]
    assert await outcomes(TWO) == ["unchanged", "unchanged"]
    assert await outcomes(TWO.replace("vpn", "other")) == ["unchanged", "configured"]
    assert store.get(PODS, "team", "web")["metadata"]["annotations"] == {
        "networkservicemesh.io": "other"
    }


async def test_an_annotation_left_out_of_the_manifest_is_removed(client, store):
    await client.apply_all(read_text(TWO, source="x"))
    without = TWO.replace("  annotations: {networkservicemesh.io: vpn}\n", "")
    await client.apply_all(read_text(without, source="x"))
    assert "annotations" not in store.get(PODS, "team", "web")["metadata"]


async def test_what_the_api_refuses_is_told_with_its_document(client, store):
    bad = TWO + "---" + ENDPOINT.replace("[vpn]", "vpn")
    with pytest.raises(ManifestError, match=r"x, document 4: .*spec\.networkServices"):
        await client.apply_all(read_text(bad, source="x"))
    assert store.find(NAMESPACES, "", "team")
    assert store.find(NETWORK_SERVICE_ENDPOINTS, "default", "vpn") is None


def test_a_hyphen_is_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(TWO))
    assert titles(read_paths([Path("-")])) == ["namespace/team", "pod/web"]
