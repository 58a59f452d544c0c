"""Cells of `kubectl get`."""

import datetime as dt

import pytest

from lab.api.kinds import (
    CONFIG_MAPS,
    EVENTS,
    KINDS,
    NETWORK_SERVICE_ENDPOINTS,
    NETWORK_SERVICES,
    NODES,
    SERVICES,
)
from lab.api.tables import cells, columns, duration, pod_state
from tests.lab.api.builders import an_endpoint, an_event

NOW = dt.datetime(2026, 1, 1, 0, 10, tzinfo=dt.UTC)
CREATED = {"creationTimestamp": "2026-01-01T00:00:00Z"}


def shown(kind, obj):
    obj = obj | {"metadata": obj.get("metadata", {"name": "x"}) | CREATED}
    return dict(zip((c["name"] for c in columns(kind)), cells(kind, obj, NOW), strict=True))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (119, "119s"),
        (121, "2m1s"),
        (180, "3m"),
        (3600, "60m"),
        (3 * 3600 + 61, "3h1m"),
        (10 * 3600, "10h"),
        (49 * 3600, "2d1h"),
        (30 * 86400, "30d"),
        (3 * 365 * 86400 + 86400, "3y1d"),
    ],
)
def test_an_age_is_told_as_kubectl_does(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.resource)
def test_every_kind_shows_an_empty_object_with_a_cell_per_column(kind):
    assert len(cells(kind, {"metadata": {"name": "x"}}, NOW)) == len(columns(kind))


@pytest.mark.parametrize(
    ("pod", "state"),
    [
        ({"status": {"phase": "Running"}}, "Running"),
        ({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}}, "Terminating"),
        ({"status": {"phase": "Failed", "reason": "Evicted"}}, "Evicted"),
        (
            {
                "status": {
                    "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]
                }
            },
            "CrashLoopBackOff",
        ),
        (
            {"status": {"containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}]}},
            "Completed",
        ),
        ({}, "Unknown"),
    ],
)
def test_the_status_of_a_pod_is_its_most_telling_word(pod, state):
    assert pod_state(pod) == state


def test_an_event_tells_when_how_often_and_of_what():
    row = shown(EVENTS, an_event(count=3, lastTimestamp="2026-01-01T00:09:00Z"))
    assert row["Last Seen"] == "60s (x3 over 10m)"
    assert (row["Object"], row["Reason"]) == ("pod/web", "Connected")


def test_an_endpoint_shows_its_network_services():
    row = shown(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    assert (row["Services"], row["Age"], row["Prefixes"]) == ("vpn", "10m", "172.16.1.0/24")


def test_nodes_services_and_config_maps_show_what_matters():
    ready = {"conditions": [{"type": "Ready", "status": "False"}]}
    address = {"addresses": [{"type": "InternalIP", "address": "172.18.0.11"}]}
    node = shown(NODES, {"status": ready | address})
    service = shown(SERVICES, {"spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 53}]}})

    assert (node["Status"], node["Internal-IP"]) == ("NotReady", "172.18.0.11")
    assert (service["Cluster-IP"], service["Port(s)"]) == ("10.96.0.10", "53/TCP")
    assert shown(CONFIG_MAPS, {"data": {"a": "1", "b": "2"}})["Data"] == 2
    assert shown(NETWORK_SERVICES, {})["Payload"] == "IP"
