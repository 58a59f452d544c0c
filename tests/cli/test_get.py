"""What `nsm lab get` makes of the API's objects."""

import asyncio
import json
from typing import Any

import pytest

from cli import kube
from cli.lab import get
from cli.output import OutputFormat
from lab.api.client import Client
from lab.api.kinds import NETWORK_SERVICE_ENDPOINTS
from tests.cli.standin import lab_api

AN_ENDPOINT = {
    "metadata": {"name": "vpn", "namespace": "default"},
    "spec": {"networkServices": ["vpn"], "podSelector": {"matchLabels": {"app": "vpn"}}},
}


def an_event(name: str, version: int, **times: str | None) -> dict[str, Any]:
    metadata = {
        "name": name,
        "resourceVersion": str(version),
        "creationTimestamp": "2030-01-01T00:00:09Z",
    }
    return {"metadata": metadata, **times}


def test_events_are_told_in_the_order_of_time(monkeypatch):
    events = [
        an_event("last", 5, lastTimestamp=None, eventTime=None),
        an_event("third", 11, lastTimestamp="2030-01-01T00:00:02Z"),
        an_event("first", 12, lastTimestamp=None, eventTime="2030-01-01T00:00:01.000005Z"),
        an_event("second", 9, lastTimestamp="2030-01-01T00:00:02Z"),
    ]
    monkeypatch.setattr(kube, "run", lambda _: (events, None))
    _, found, _ = get._from_api("events", "default", "")
    names = [event["metadata"]["name"] for event in found]
    assert names == ["first", "second", "third", "last"]


@pytest.fixture
async def api(monkeypatch):
    """The lab's API, with an endpoint and its status."""
    async with lab_api(monkeypatch) as server:
        async with Client(server.url) as client:
            await client.create(NETWORK_SERVICE_ENDPOINTS, AN_ENDPOINT)
            status = {"status": {"prefixes": ["172.16.1.0/24"], "clients": 2}}
            await client.patch(NETWORK_SERVICE_ENDPOINTS, "default", "vpn", status, status=True)
        yield server


def show(what: str, output: OutputFormat = OutputFormat.TABLE, *, everywhere: bool = False) -> None:
    get.get(what, "", "default", everywhere, output)


async def test_a_custom_kind_has_the_columns_of_its_definition(api, capsys):
    await asyncio.to_thread(show, "nse", everywhere=True)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAMESPACE", "NAME", "SERVICES", "PREFIXES", "CLIENTS", "AGE"]
    assert row.split()[:-1] == ["default", "vpn", '["vpn"]', '["172.16.1.0/24"]', "2"]


async def test_a_custom_kind_as_json_is_the_object(api, capsys):
    await asyncio.to_thread(show, "networkserviceendpoints", OutputFormat.JSON)
    (item,) = json.loads(capsys.readouterr().out)["items"]
    assert (item["kind"], item["metadata"]["name"]) == ("NetworkServiceEndpoint", "vpn")


async def test_of_a_custom_kind_without_objects_it_is_said_that_there_are_none(api, capsys):
    await asyncio.to_thread(show, "networkservices")
    assert capsys.readouterr().out == "no networkservices in namespace default; -A: of all\n"
