"""What `nsm lab get` makes of the API's objects."""

from typing import Any

from cli import kube
from cli.lab import get


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
    monkeypatch.setattr(kube, "run", lambda _: events)
    _, found = get._from_api("events", "default", "")
    names = [event["metadata"]["name"] for event in found]
    assert names == ["first", "second", "third", "last"]
