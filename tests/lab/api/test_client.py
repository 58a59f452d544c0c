"""The command's own client: every verb against a real server, errors as messages for people."""

import asyncio
import socket

import pytest
import yaml

from lab.api.client import Client, ClientError
from lab.api.kinds import CONFIG_MAPS, NETWORK_SERVICE_ENDPOINTS, PODS
from lab.api.kubeconfig import write_kubeconfig
from lab.api.manifests import ManifestError, read_text
from tests.lab.api.builders import a_config_map, a_pod, an_endpoint


async def test_create_get_patch_and_delete(client):
    created = await client.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    patch = {"metadata": {"annotations": {"a": "b"}}}
    patched = await client.patch(NETWORK_SERVICE_ENDPOINTS, "default", "vpn", patch)
    found = await client.get(NETWORK_SERVICE_ENDPOINTS, "default", "vpn")
    await client.delete(NETWORK_SERVICE_ENDPOINTS, "default", "vpn")

    assert created["metadata"]["uid"] == patched["metadata"]["uid"]
    assert found == patched
    assert await client.find(NETWORK_SERVICE_ENDPOINTS, "default", "vpn") is None


async def test_a_list_follows_its_pages(client, store):
    for number in range(1203):
        store.create(CONFIG_MAPS, a_config_map(f"c{number}"))
    assert len(await client.objects(CONFIG_MAPS)) == 1203
    assert len(await client.objects(CONFIG_MAPS, fields="metadata.name=c7")) == 1
    assert await client.objects(CONFIG_MAPS, namespace="kube-system") == []


async def test_apply_says_created_configured_or_unchanged(client):
    body = an_endpoint()
    outcomes = [(await client.apply(NETWORK_SERVICE_ENDPOINTS, body))[1] for _ in range(2)]
    body["spec"]["networkServices"] = ["other"]
    outcomes.append((await client.apply(NETWORK_SERVICE_ENDPOINTS, body))[1])
    assert outcomes == ["created", "unchanged", "configured"]


async def test_apply_all_names_the_document_the_api_refuses(client):
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: []}"
    with pytest.raises(ManifestError, match=r"x\.yaml, document 1: pod/web: .*spec\.containers"):
        await client.apply_all(read_text(text, source="x.yaml"))


async def test_an_error_is_the_servers_own_message(client):
    with pytest.raises(ClientError, match='pods "nope" not found') as caught:
        await client.get(PODS, "default", "nope")
    assert (caught.value.code, caught.value.reason) == (404, "NotFound")


async def test_nobody_listening_is_said_with_the_address():
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{placeholder.getsockname()[1]}"
        async with Client(url) as client:
            with pytest.raises(ClientError, match=f"{url} does not answer") as caught:
                await client.get(PODS, "default", "web")
    assert caught.value.reason == "Unreachable"


async def test_a_watch_starts_with_what_is_there_and_follows(client, store):
    store.create(PODS, a_pod("a"))
    seen = []
    async with asyncio.timeout(20):
        async for kind, pod in client.watch(PODS, namespace="default"):
            seen.append((kind, pod["metadata"]["name"]))
            if len(seen) == 1:
                store.create(PODS, a_pod("b"))
            elif len(seen) == 2:
                store.delete(PODS, "default", "a")
            else:
                break
    assert seen == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]


def test_a_kubeconfig_is_its_owners_alone_and_names_server_and_token(tmp_path):
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, "http://127.0.0.1:1", "secret")
    config = yaml.safe_load(path.read_text())

    assert path.stat().st_mode & 0o777 == 0o600
    assert config["clusters"][0]["cluster"] == {"server": "http://127.0.0.1:1"}
    assert config["users"][0]["user"] == {"token": "secret"}
