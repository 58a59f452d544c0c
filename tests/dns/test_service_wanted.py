"""Whose queries are to be answered, and by whom."""

import msgspec
import pytest

from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.intent import Dns as DnsSpec
from schemas.subjects import ConnectionKey, ResolverKey
from services.dns.service.wanted import Granted
from tests.dns.world import NODE, SERVER, a_grant

POD = ResolverKey(NODE, "default", "client")
KUBERNETES = ("default.svc.k8s.test", "svc.k8s.test", "k8s.test")


def granted(*grants: Connection) -> Granted:
    items = {grant.key: grant for grant in grants}
    made = Granted(items, ("10.96.0.10",))
    for key in items:
        assert made.note(key).node == NODE
    return made


def of_uid(grant: Connection, uid: str, interface: str) -> Connection:
    pod = msgspec.structs.replace(grant.client.pod, uid=uid)
    client = msgspec.structs.replace(grant.client, pod=pod, interface=interface)
    return msgspec.structs.replace(grant, client=client)


def test_the_cluster_comes_first_and_is_asked_for_every_name() -> None:
    wanted = granted(a_grant()).wanted(POD, living=())

    assert wanted is not None
    cluster, service = wanted.upstreams
    assert (cluster.name, cluster.servers, cluster.domains) == ("cluster", ("10.96.0.10",), ())
    assert (service.name, service.servers, service.domains) == (
        "default/vpn",
        (SERVER,),
        ("corp.example",),
    )
    assert (service.interface, service.revision) == ("nsm0", 1)


def test_a_connection_without_dns_or_a_usable_server_wants_nothing() -> None:
    for dns in (None, DnsSpec(), DnsSpec(servers=("not an address",))):
        grant = msgspec.structs.replace(a_grant(), dns=dns)
        assert granted(grant).wanted(POD, living=()) is None


def test_the_endpoints_side_wants_nothing() -> None:
    grant = a_grant()
    pod = msgspec.structs.replace(grant.client.pod, node="node2")
    copy = msgspec.structs.replace(grant, client=msgspec.structs.replace(grant.client, pod=pod))

    assert granted(copy).wanted(POD, living=()) is None


def test_of_two_pods_of_one_name_the_living_one_counts_else_the_newer() -> None:
    older = of_uid(a_grant(revision=1), "uid-old", "nsm0")
    newer = of_uid(a_grant(revision=2), "uid-new", "nsm1")
    both = granted(older, newer)

    for living, expected in (((), "uid-new"), (("uid-old",), "uid-old"), (("uid-new",), "uid-new")):
        wanted = both.wanted(POD, living=living)
        assert wanted is not None
        assert (wanted.uid, len(wanted.upstreams)) == (expected, 2)
    assert both.uids(POD) == {"uid-old", "uid-new"}


def test_a_pod_is_forgotten_with_its_last_grant() -> None:
    items: dict[ConnectionKey, Connection | Tombstone] = {a_grant().key: a_grant()}
    made = Granted(items, ("10.96.0.10",))
    made.note(a_grant().key)
    assert made.pods() == {POD}

    items.clear()
    made.note(a_grant().key)

    assert made.pods() == set()
    assert made.wanted(POD, living=()) is None


@pytest.mark.parametrize(
    ("policy", "named", "expected"),
    [
        ("ClusterFirst", (), ("10.96.0.10",)),
        ("ClusterFirst", ("1.1.1.1", "10.96.0.10"), ("10.96.0.10", "1.1.1.1")),
        ("ClusterFirstWithHostNet", (), ("10.96.0.10",)),
        ("Default", (), ("192.0.2.53",)),
        ("Default", ("1.1.1.1",), ("192.0.2.53", "1.1.1.1")),
        ("None", ("1.1.1.1", "2001:db8::1"), ("1.1.1.1", "2001:db8::1")),
        ("None", ("127.0.0.1",), ("10.96.0.10",)),  # its own: not reached over the CNI's interface
        ("None", ("no address",), ("10.96.0.10",)),
    ],
)
def test_the_clusters_servers_are_those_of_the_pods_own_resolv_conf(
    policy: str, named: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    grant = a_grant()
    pod = msgspec.structs.replace(grant.client.pod, dns_policy=policy, nameservers=named)
    client = msgspec.structs.replace(grant.client, pod=pod)
    grant = msgspec.structs.replace(grant, client=client)
    made = Granted({grant.key: grant}, ("10.96.0.10",), node_servers=("192.0.2.53",))
    made.note(grant.key)
    wanted = made.wanted(POD, living=())

    assert wanted is not None
    assert wanted.upstreams[0].servers == expected


def test_without_servers_of_the_node_its_pods_ask_the_clusters() -> None:
    grant = a_grant()
    pod = msgspec.structs.replace(grant.client.pod, dns_policy="Default")
    client = msgspec.structs.replace(grant.client, pod=pod)
    wanted = granted(msgspec.structs.replace(grant, client=client)).wanted(POD, living=())

    assert wanted is not None
    assert wanted.upstreams[0].servers == ("10.96.0.10",)


@pytest.mark.parametrize(
    ("policy", "named", "expected"),
    [
        ("ClusterFirst", (), (*KUBERNETES, "node.test")),
        ("ClusterFirst", ("a.test", "k8s.test"), (*KUBERNETES, "node.test", "a.test")),
        ("Default", ("a.test",), ("node.test", "a.test")),
        ("None", (), ()),
        ("None", ("a.test",), ("a.test",)),
    ],
)
def test_the_own_search_list_is_that_of_the_pods_own_resolv_conf(
    policy: str, named: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    grant = a_grant()
    pod = msgspec.structs.replace(grant.client.pod, dns_policy=policy, searches=named)
    client = msgspec.structs.replace(grant.client, pod=pod)
    grant = msgspec.structs.replace(grant, client=client)
    made = Granted(
        {grant.key: grant},
        ("10.96.0.10",),
        node_searches=("node.test",),
        cluster_domain="k8s.test",
    )
    made.note(grant.key)
    wanted = made.wanted(POD, living=())

    assert wanted is not None
    assert wanted.upstreams[0].search_domains == expected
