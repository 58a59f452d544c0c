"""Addresses and routes that cannot collide, on a whole lab."""

import ipaddress
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from schemas.grant import Connection
from tests.e2e.cluster import Cluster, endpoint, endpoint_pod, pod
from tests.e2e.witness import picture

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lab"), pytest.mark.timeout(240)]

SYSTEM = "nsm-system"
PAIRS = {"addressing": "pointToPoint"}
SUPERNETS = ("100.64.0.0/10", "fc00::/7")

Excluding = Callable[..., None]


@pytest.fixture
def excluding(cluster: Cluster) -> Iterator[Excluding]:
    """Sets the user's own exclusions; none are left behind."""

    def exclude(*prefixes: str) -> None:
        metadata = {"name": "excluded-prefixes", "namespace": SYSTEM}
        data = {"prefixes": "\n".join(prefixes)}
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})

    yield exclude
    exclude()
    cluster.until("nothing is excluded any more", lambda: not _excluded_by_the_user(cluster))
    cluster.late.clear()


def test_the_two_addresses_of_a_31_are_the_endpoints_and_the_clients(cluster, namespace):
    cluster.apply(*offered("p", namespace, "172.16.1.100/31", ipam=PAIRS))
    cluster.apply(pod("app", namespace, "p/nsm-1"))
    assert ends(cluster, "app", namespace) == (["172.16.1.101/32"], ["172.16.1.100/32"])
    cluster.nsm("ping", "app", "-n", namespace, "-I", "nsm-1", "--count", "2")
    cluster.apply(pod("second", namespace, "p/nsm-1"))
    assert "2 of 2 addresses taken" in cluster.refused("second", namespace, "PoolExhausted")


def test_excluded_addresses_of_a_pool_are_left_out(cluster, namespace):
    ipam = {**PAIRS, "excludePrefixes": ["172.16.1.201/32", "172.16.1.202/32"]}
    cluster.apply(*offered("p", namespace, "172.16.1.200/30", ipam=ipam))
    cluster.apply(pod("app", namespace, "p/nsm-1"))
    assert ends(cluster, "app", namespace) == (["172.16.1.203/32"], ["172.16.1.200/32"])
    cluster.nsm("ping", "app", "-n", namespace, "-I", "nsm-1", "--count", "2")


def test_two_services_with_one_prefix_serve_one_client_side_by_side(cluster, namespace):
    for name in ("a", "b"):
        cluster.apply(*offered(name, namespace, "172.16.1.96/29", ipam=PAIRS))
    cluster.apply(pod("app", namespace, "a/nsm-1, b/nsm-2"))
    cluster.connected("app", namespace)
    pairs = [ends(cluster, "app", namespace, interface=i) for i in ("nsm-1", "nsm-2")]
    assert sorted(pairs) == [
        (["172.16.1.97/32"], ["172.16.1.96/32"]),
        (["172.16.1.99/32"], ["172.16.1.98/32"]),
    ]
    for interface in ("nsm-1", "nsm-2"):
        cluster.nsm("ping", "app", "-n", namespace, "-I", interface, "--count", "2")


def test_ipv6_and_both_families_at_once(cluster, namespace):
    cluster.apply(*offered("six", namespace, "2001:db8::/112", ipam=PAIRS))
    cluster.apply(*offered("both", namespace, "172.16.3.0/28", "2001:db8:3::/112", ipam=PAIRS))
    cluster.apply(pod("app", namespace, "six/nsm-1"), pod("dual", namespace, "both/nsm-1"))
    assert ends(cluster, "app", namespace) == (["2001:db8::1/128"], ["2001:db8::/128"])
    assert ends(cluster, "dual", namespace) == (
        ["172.16.3.1/32", "2001:db8:3::1/128"],
        ["172.16.3.0/32", "2001:db8:3::/128"],
    )
    for name in ("app", "dual"):
        cluster.nsm("ping", name, "-n", namespace, "-I", "nsm-1", "--count", "2")


@pytest.mark.parametrize(
    ("prefix", "overlapped"),
    [("10.244.1.0/25", "10.244.1.0/24"), ("10.96.0.1/32", "10.96.0."), ("NODE", "NODE")],
    ids=["pod-cidr", "service", "node"],
)
def test_a_pool_inside_what_the_cluster_uses_is_refused_on_the_pod_and_on_the_endpoint(
    cluster, namespace, prefix, overlapped
):
    if prefix == "NODE":
        prefix = overlapped = node_address(cluster)
    cluster.apply(*offered("bad", namespace, prefix, ipam=PAIRS))
    cluster.apply(pod("app", namespace, "bad/nsm-1"))

    message = cluster.refused("app", namespace, "PrefixCollision")
    assert prefix.removesuffix("/32") in message
    assert overlapped.removesuffix("/32") in message
    cluster.until(
        "the endpoint tells the collision",
        lambda: (
            object_condition(cluster, "bad", namespace, "PrefixCollision").get("status") == "True"
        ),
    )
    told = object_condition(cluster, "bad", namespace, "PrefixCollision")["message"]
    assert prefix in told
    assert overlapped.removesuffix("/32") in told


def test_a_partly_overlapping_pool_is_used_around_the_overlap(cluster, namespace, excluding):
    excluding("172.20.42.0/30")
    cluster.until("it is excluded", lambda: _excluded_by_the_user(cluster))
    cluster.apply(*offered("p", namespace, "172.20.42.0/29", ipam=PAIRS))
    cluster.apply(pod("app", namespace, "p/nsm-1"))

    assert ends(cluster, "app", namespace) == (["172.20.42.5/32"], ["172.20.42.4/32"])
    cluster.until(
        "the endpoint tells the overlap",
        lambda: (
            "172.20.42.0/30"
            in object_condition(cluster, "p", namespace, "PrefixCollision").get("message", "")
        ),
    )


def test_routes_to_nodes_and_to_what_another_connection_reaches_are_refused_naming_both(
    cluster, namespace
):
    node = ipaddress.ip_network(node_address(cluster))
    around = str(node.supernet(new_prefix=28))
    cluster.apply(*offered("node", namespace, "172.20.43.0/29", routes=[around]))
    cluster.apply(*offered("wide", namespace, "172.20.44.0/29", routes=["10.60.0.0/16"]))
    cluster.apply(*offered("deep", namespace, "172.20.45.0/29", routes=["10.60.7.0/24"]))
    cluster.apply(pod("to-node", namespace, "node/nsm-1"))
    message = cluster.refused("to-node", namespace, "PrefixCollision")
    assert around in message
    assert str(node.network_address) in message

    cluster.apply(pod("app", namespace, "wide/nsm-1"))
    cluster.connected("app", namespace)
    cluster.apply(pod("app", namespace, "wide/nsm-1, deep/nsm-2"))
    message = cluster.refused("app", namespace, "PrefixCollision")
    assert "10.60.7.0/24" in message
    assert "10.60.0.0/16" in message
    assert list(granted(cluster, namespace)) == [("app", "nsm-1")]


def test_a_late_exclusion_readdresses_who_it_meets_and_nobody_else(cluster, namespace, excluding):
    cluster.apply(*offered("p", namespace, "172.20.46.0/24"))
    for name in ("app", "other"):
        cluster.apply(pod(name, namespace, "p/nsm-1"))
        cluster.connected(name, namespace)
    before = granted(cluster, namespace)
    own = before["app", "nsm-1"].client.addresses[0]

    with cluster.pinging("other", namespace, "nsm-1") as stop:
        excluding(own)
        cluster.until(
            "the Pod has another address",
            lambda: own not in cluster.interfaces("app", namespace)["nsm-1"]["addresses"],
        )
        cluster.connected("app", namespace)
        assert ", 0% packet loss" in stop()

    after = granted(cluster, namespace)
    assert after["other", "nsm-1"] == before["other", "nsm-1"]
    assert own in after["app", "nsm-1"].readdressed
    cluster.until("an event tells it", lambda: "Readdressed" in cluster.events("app", namespace))
    assert own.removesuffix("/32") in cluster.events("app", namespace)["Readdressed"]
    cluster.nsm("ping", "app", "-n", namespace, "-I", "nsm-1", "--count", "2")


def test_what_nothing_can_replace_stands_and_the_endpoint_says_what_overlaps(
    cluster, namespace, excluding
):
    cluster.apply(*offered("p", namespace, "172.20.47.0/29"))
    cluster.apply(pod("app", namespace, "p/nsm-1"))
    cluster.connected("app", namespace)
    before = granted(cluster, namespace)

    with cluster.pinging("app", namespace, "nsm-1") as stop:
        cluster.late.add("172.20.47.0/24")
        excluding("172.20.47.0/24")
        cluster.until(
            "the endpoint tells the overlap",
            lambda: (
                "172.20.47.0/24"
                in object_condition(cluster, "p", namespace, "PrefixCollision").get("message", "")
            ),
        )
        cluster.apply(pod("late", namespace, "p/nsm-1"))
        cluster.refused("late", namespace, "PrefixCollision")
        cluster.until("the Pod is told", lambda: covered(cluster, namespace))
        assert ", 0% packet loss" in stop()

    stands = granted(cluster, namespace)["app", "nsm-1"]
    assert stands.client.addresses == before["app", "nsm-1"].client.addresses
    assert "172.20.47.0/24" in stands.covered
    told = cluster.nsm("ipam", "explain", f"{namespace}/app")
    assert "stays as it is, for nothing else is free, although 172.20.47.2" in told
    excluding()
    cluster.connected("late", namespace)
    cluster.until(
        "it says so no more",
        lambda: not granted(cluster, namespace)["app", "nsm-1"].covered,
    )
    cluster.until("the Pod says so no more", lambda: not covered(cluster, namespace, event=False))


def covered(cluster: Cluster, namespace: str, *, event: bool = True) -> bool:
    """Whether the condition of the Pod, which stays True, and an Event say that it keeps what a prefix covers."""
    cluster.connected("app", namespace)
    found = cluster.condition("app", namespace)
    return "stays, for nothing else is free" in found["message"] and (
        not event or "172.20.47.0/24" in cluster.events("app", namespace).get("PrefixCollision", "")
    )


def test_an_endpoint_without_prefixes_gets_some_and_keeps_them_over_every_restart(
    cluster, namespace
):
    for name in ("one", "two"):
        cluster.apply(*offered(name, namespace))
        cluster.apply(pod(f"to-{name}", namespace, f"{name}/nsm-1"))
        cluster.connected(f"to-{name}", namespace)
    # Figures of pools follow the grants, a second later at most.
    cluster.until("both are told", lambda: set(automatic(cluster, namespace)) == {"one", "two"})
    before, pools = granted(cluster, namespace), automatic(cluster, namespace)
    supernets = [ipaddress.ip_network(s) for s in SUPERNETS]
    for prefixes in pools.values():
        assert all(_within(p, supernets) for p in prefixes), prefixes

    for process in ("nats", "watcher", "ipam", "plumber/node1"):
        cluster.nsm("lab", "kill", process, "-9")
    cluster.apply(pod("late", namespace, "one/nsm-1"))
    cluster.connected("late", namespace)

    now = granted(cluster, namespace)
    assert automatic(cluster, namespace) == pools
    assert {key: now[key] for key in before} == before
    late = now["late", "nsm-1"].client.addresses
    assert all(_within(a, map(ipaddress.ip_network, pools["one"])) for a in late)


def test_a_pool_of_five_serves_five_and_the_sixth_as_soon_as_one_is_freed(cluster, namespace):
    cluster.apply(*offered("p", namespace, "172.20.48.0/29"))
    cluster.apply(*(pod(f"app{n}", namespace, "p/nsm-1") for n in range(5)))
    for number in range(5):
        cluster.connected(f"app{number}", namespace)
    cluster.apply(pod("sixth", namespace, "p/nsm-1"))
    assert "6 of 6 addresses taken" in cluster.refused("sixth", namespace, "PoolExhausted")
    freed = granted(cluster, namespace)["app3", "nsm-1"].client.addresses

    cluster.nsm("lab", "delete", "pod", "app3", "-n", namespace)

    cluster.connected("sixth", namespace)
    assert granted(cluster, namespace)["sixth", "nsm-1"].client.addresses == freed


def test_kill_9_of_ipam_while_pods_come_grants_each_of_them_once(cluster, namespace):
    cluster.apply(*offered("p", namespace, "172.20.49.0/28"))
    cluster.apply(*(pod(f"app{n}", namespace, "p/nsm-1") for n in range(6)))
    cluster.nsm("lab", "kill", "ipam", "-9")
    cluster.apply(*(pod(f"app{n}", namespace, "p/nsm-1") for n in range(6, 12)))

    for number in range(12):
        cluster.connected(f"app{number}", namespace)
    found = granted(cluster, namespace)
    assert len({c.client.addresses for c in found.values()}) == 12


def test_fifty_connections_keep_every_packet_and_address_when_the_bus_is_wiped(cluster, namespace):
    cluster.apply(endpoint("p", namespace, "p", "172.20.50.0/24"))
    for node in ("node1", "node2"):
        cluster.apply(endpoint_pod(f"p-{node}", namespace, "p", nodeName=node))
    names = [f"app{number}" for number in range(50)]
    nodes = [f"node{1 + number % 2}" for number in range(50)]
    # In the order that a fresh allocation would not take.
    for some, wanted in ((names[::-2], 25), (names[::2], 50)):
        cluster.apply(*(pod(n, namespace, "p/nsm-1", nodeName=nodes[names.index(n)]) for n in some))
        all_ready(cluster, namespace, wanted)
    before = granted(cluster, namespace)
    assert len(before) == 50

    with ExitStack() as stack:
        stops = [
            stack.enter_context(cluster.pinging(name, namespace, "nsm-1"))
            for name in ("app0", "app25", "app49")
        ]
        for process in ("ipam", "nats"):
            cluster.nsm("lab", "kill", process, "-9", "--hold")
        shutil.rmtree(cluster.directory / "nats" / "store" / "jetstream")
        for process in ("nats", "ipam"):
            cluster.nsm("lab", "start", process)
        cluster.apply(pod("late", namespace, "p/nsm-1"))
        cluster.connected("late", namespace)
        for stop in stops:
            assert ", 0% packet loss" in stop()

    now = granted(cluster, namespace)
    late = now.pop(("late", "nsm-1"))
    assert now == before
    assert late.client.addresses not in [c.client.addresses for c in before.values()]
    cluster.nsm("lab", "delete", "namespace", namespace)


def test_the_prefixes_in_use_are_told_to_the_nodes(cluster, namespace, excluding):
    excluding("172.20.51.0/25", "172.20.51.128/25")

    def told() -> list[str]:
        return [p for message in picture(cluster).cluster.values() for p in message.prefixes]

    cluster.until("two halves are told as one", lambda: "172.20.51.0/24" in told())
    networks = [ipaddress.ip_network(p) for p in told()]
    for used in ("10.244.1.0/24", "10.244.2.0/24", "10.96.0.1/32", node_address(cluster)):
        assert _within(used, networks), used


# helpers


def offered(
    name: str, namespace: str, *prefixes: str, routes: tuple[str, ...] | list[str] = (), **spec: Any
) -> list[dict[str, Any]]:
    """An endpoint of the network service of its own name, and its Pod. Without prefixes it names none."""
    found = endpoint(name, namespace, name, *prefixes, **spec)
    if not prefixes:
        del found["spec"]["ipam"]
    if routes:
        found["spec"]["routes"] = [{"destination": route} for route in routes]
    return [found, endpoint_pod(f"{name}-1", namespace, name)]


def granted(cluster: Cluster, namespace: str) -> dict[tuple[str, str], Connection]:
    """Connections of a namespace by Pod and interface."""
    return {
        (c.client.pod.name, c.client.interface): c
        for c in picture(cluster).grants()
        if c.client.pod.namespace == namespace
    }


def all_ready(cluster: Cluster, namespace: str, count: int) -> None:
    """Wait until the clients' nodes say of that many connections that they can be used."""

    def is_so() -> bool:
        found = [s for k, s in picture(cluster).statuses.items() if k.namespace == namespace]
        return sum(s.client is not None and s.client.state == "ready" for s in found) == count

    cluster.until(f"{count} connections are ready", is_so, seconds=120)


def ends(
    cluster: Cluster, name: str, namespace: str, *, interface: str = "nsm-1"
) -> tuple[list[str], list[str]]:
    """Addresses of client and endpoint: granted, and there in both Pods."""
    cluster.connected(name, namespace)
    found = granted(cluster, namespace)[name, interface]
    for end in (found.client, found.server):
        shown = cluster.interfaces(end.pod.name, namespace)[end.interface]["addresses"]
        assert set(end.addresses) <= set(shown)
    return list(found.client.addresses), list(found.server.addresses)


def node_address(cluster: Cluster) -> str:
    """Of node1, as soon as the watcher tells it."""
    pods = [ipaddress.ip_network("10.244.0.0/16"), ipaddress.ip_network("10.96.0.0/16")]

    def told() -> list[str]:
        return sorted(
            p.prefix
            for key, message in picture(cluster).prefixes.items()
            if key.source == "node"
            for p in message.prefixes
            if p.prefix.endswith("/32") and not _within(p.prefix, pods)
        )

    cluster.until("node addresses are told", lambda: bool(told()))
    return told()[0]


def object_condition(cluster: Cluster, name: str, namespace: str, kind: str) -> dict[str, Any]:
    found = cluster.items("networkserviceendpoints", namespace)
    (own,) = [o for o in found if o["metadata"]["name"] == name]
    conditions = own.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def automatic(cluster: Cluster, namespace: str) -> dict[str, list[str]]:
    """Prefixes that were carved, by endpoint."""
    return {
        key.endpoint: [p for family in pool.families for p in family.prefixes]
        for key, pool in picture(cluster).pools.items()
        if key.namespace == namespace and pool.automatic
    }


def _excluded_by_the_user(cluster: Cluster) -> list[str]:
    return [
        p.prefix
        for key, message in picture(cluster).prefixes.items()
        if key.source == "user"
        for p in message.prefixes
    ]


def _within(prefix: str, networks: Any) -> bool:
    inner = ipaddress.ip_network(prefix, strict=False)
    return any(inner.version == n.version and inner.subnet_of(n) for n in networks)
