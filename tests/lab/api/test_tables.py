"""Cells of `kubectl get`."""

import datetime as dt

import pytest

from lab.api.kinds import (
    CONFIG_MAPS,
    EVENTS,
    KINDS,
    NETWORK_SERVICE_ENDPOINTS,
    NODES,
    SERVICE_CIDRS,
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


BUILT_IN = [kind for kind in KINDS if not kind.custom]


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.resource)
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


COLUMNS = [
    {"name": "Services", "type": "string", "jsonPath": ".spec.networkServices"},
    {"name": "Clients", "type": "integer", "jsonPath": ".status.clients", "priority": 1},
    {
        "name": "Accepted",
        "type": "string",
        "jsonPath": '.status.conditions[?(@.type=="Accepted")].status',
    },
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


def test_a_custom_kind_shows_the_columns_of_its_definition():
    versions = [{"name": "v1", "served": True, "additionalPrinterColumns": COLUMNS}]
    definition = {"spec": {"versions": versions}}
    conditions = [{"type": "Other", "status": "x"}, {"type": "Accepted", "status": "True"}]
    endpoint = an_endpoint(**CREATED) | {"status": {"clients": 3, "conditions": conditions}}
    heads = columns(NETWORK_SERVICE_ENDPOINTS, definition)
    assert [(each["name"], each["priority"]) for each in heads] == [
        ("Name", 0),
        ("Services", 0),
        ("Clients", 1),
        ("Accepted", 0),
        ("Age", 0),
    ]
    row = cells(NETWORK_SERVICE_ENDPOINTS, endpoint, NOW, definition)
    assert row == ["vpn", '["vpn"]', 3, "True", "10m"]
    bare = cells(NETWORK_SERVICE_ENDPOINTS, {"metadata": {"name": "x"}}, NOW, definition)
    assert bare == ["x", None, None, None, "<unknown>"]


def test_nodes_services_and_config_maps_show_what_matters():
    ready = {"conditions": [{"type": "Ready", "status": "False"}]}
    address = {"addresses": [{"type": "InternalIP", "address": "172.18.0.11"}]}
    node = shown(NODES, {"status": ready | address})
    service = shown(SERVICES, {"spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 53}]}})

    assert (node["Status"], node["Internal-IP"]) == ("NotReady", "172.18.0.11")
    assert (service["Cluster-IP"], service["Port(s)"]) == ("10.96.0.10", "53/TCP")
    assert shown(CONFIG_MAPS, {"data": {"a": "1", "b": "2"}})["Data"] == 2
    cidrs = {"spec": {"cidrs": ["10.96.0.0/16", "fd00::/108"]}}
    assert shown(SERVICE_CIDRS, cidrs)["CIDRs"] == "10.96.0.0/16,fd00::/108"
