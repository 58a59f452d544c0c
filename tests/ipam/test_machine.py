"""ipam's core in a cluster that does anything: nothing overlaps, nothing leaks, nobody is disturbed without need."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from schemas.grant import Connection
from schemas.intent import Endpoint, IpamSpec, PodRef, Request, Route
from schemas.state import NodeFacts
from schemas.subjects import EndpointKey, RequestKey
from tests import checker
from tests.checker.picture import object_of
from tests.checker.pools import usable
from tests.checker.spans import Cover, address, span
from tests.ipam.model_cluster import Cluster, replace, request_key, status_key, words
from tests.ipam.model_legal import doubled, reaches, surely_possible

pytestmark = pytest.mark.timeout(900)  # a failure is shrunk, which takes its time

NODES = ("node1", "node2", "node3")
OBJECTS = {"one": "vpn", "two": "vpn", "three": "dmz", "four": "corp"}
REPLICAS = ("a", "b")
CLIENTS = tuple(f"c{number}" for number in range(5))
SPECS = (
    IpamSpec(prefixes=("172.16.1.96/29",)),
    IpamSpec(prefixes=("172.16.1.96/29",), addressing="pointToPoint"),
    IpamSpec(prefixes=("172.16.1.100/31",), addressing="pointToPoint"),
    IpamSpec(prefixes=("172.16.1.96/28",), exclude_prefixes=("172.16.1.98/31",)),
    IpamSpec(prefixes=("172.16.1.104/30", "2001:db8::/125")),
    IpamSpec(prefixes=("2001:db8::/126", "172.16.1.112/29"), addressing="pointToPoint"),
    IpamSpec(),
    IpamSpec(addressing="pointToPoint"),
)
ROUTES = ((), ("10.20.0.0/16",), ("10.20.5.0/24", "10.30.0.0/16"), ("0.0.0.0/0",))
EXCLUSIONS = (
    "172.16.1.96/30",
    "172.16.1.97/32",
    "172.16.1.104/29",
    "172.16.1.0/24",
    "2001:db8::/126",
    "10.20.0.0/24",
    "100.112.0.0/18",
    "fd6e:736d:6e61::/120",
)

nodes = st.sampled_from(NODES)
objects = st.sampled_from(sorted(OBJECTS))
clients = st.sampled_from(CLIENTS)
services = st.sampled_from(sorted(set(OBJECTS.values())))


def is_same(now: Connection | None, before: Connection) -> bool:
    """Whether nothing changed but perhaps what it tells of prefixes in use that cover it."""
    if now is None or now.covered == before.covered:
        return now == before
    told = {"covered": before.covered, "revision": before.revision, "held": before.held}
    return replace(now, **told) == before


class Machine(RuleBasedStateMachine):
    """Steps of people, nodes and chance; after each of them all is settled and judged."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.born = 0
        self.forgiven: set[tuple[RequestKey, tuple[str, ...]]] = set()
        self.routed: set[RequestKey] = (
            set()
        )  # whose routes stood before a prefix in use covered them
        self.ever: set[RequestKey] = set()
        self.specs: dict[str, tuple[IpamSpec, tuple[str, ...]]] = {}

    @initialize(specs=st.lists(st.sampled_from(SPECS), min_size=4, max_size=4))
    def begin(self, specs: list[IpamSpec]) -> None:
        for node in NODES:
            self.cluster.add_node(facts_of(node))
        for name, spec in zip(OBJECTS, specs, strict=True):
            self.specs[name] = spec, ()
            self.put_replica(name, "a", NODES[len(name) % 3])
        self.cluster.settle_all()

    # intent

    @rule(name=clients, service=services, node=nodes, interface=st.sampled_from(("i1", "i2")))
    def ask(self, name: str, service: str, node: str, interface: str) -> None:
        key = RequestKey("default", name, interface)
        if node not in self.cluster.facts or key in self.cluster.requests:
            return
        siblings = [r.pod for k, r in self.cluster.requests.items() if k.pod == name]
        pod = siblings[0] if siblings else self.pod(name, node)
        with self.disturbing(lambda k, _: k == key):
            self.cluster.requests[key] = Request(
                pod=pod, interface=interface, network_service=service
            )
            self.ever.add(key)

    @precondition(lambda self: self.cluster.requests)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """The annotation is edited; the Pod stays."""
        key = data.draw(st.sampled_from(sorted(self.cluster.requests, key=words)))
        with self.disturbing(lambda k, _: k == key):
            del self.cluster.requests[key]

    @precondition(lambda self: self.cluster.requests)
    @rule(data=st.data())
    def delete_client(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted({k.pod for k in self.cluster.requests})))
        with self.disturbing(lambda k, _: k.pod == name):
            self.end_pod({k for k in self.cluster.requests if k.pod == name})

    @precondition(lambda self: self.cluster.granted() and not self.cluster.silent)
    @rule(data=st.data())
    def come_back_under_the_same_name(self, data: st.DataObject) -> None:
        """All is confirmed in between: the same (namespace, pod, interface) gets its old address back."""
        key = data.draw(st.sampled_from(sorted(self.cluster.granted(), key=words)))
        old, request = self.cluster.granted()[key], self.cluster.requests[key]
        if self.affected() or any(k.pod == key.pod and k != key for k in self.cluster.requests):
            return
        self.everything_arrives()
        old = self.cluster.granted()[key]
        is_fit = self.is_fit(old)
        # Nobody else may take the addresses meanwhile: what is refused waits until it is back.
        waiting = {k: r for k, r in self.cluster.requests.items() if k in self.cluster.refusals}
        for other in (key, *waiting):
            del self.cluster.requests[other]
        self.everything_arrives()
        self.cluster.requests[key] = replace(request, pod=self.pod(key.pod, request.pod.node))
        self.cluster.settle_all()
        new = self.cluster.granted().get(key)
        self.cluster.requests.update(waiting)
        self.cluster.settle_all()
        if is_fit:
            assert new is not None, self.cluster.refusals.get(key)
            if new.endpoint == old.endpoint:
                assert new.client.addresses == old.client.addresses
        self.judge()

    # endpoints

    @rule(name=objects, replica=st.sampled_from(REPLICAS), node=nodes)
    def start_replica(self, name: str, replica: str, node: str) -> None:
        key = EndpointKey("default", name, f"{name}-{replica}")
        if node in self.cluster.facts and key not in self.cluster.endpoints:
            with self.disturbing(lambda *_: False):
                self.put_replica(name, replica, node)

    @precondition(lambda self: self.cluster.endpoints)
    @rule(data=st.data())
    def end_replica(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.cluster.endpoints, key=words)))
        uid = self.cluster.endpoints[key].pod.uid
        with self.disturbing(lambda _, c: c.server.pod.uid == uid):
            self.cluster.put_endpoint(key, None)
            self.end_netns(uid)

    @precondition(lambda self: self.cluster.endpoints)
    @rule(data=st.data())
    def change_readiness(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.cluster.endpoints, key=words)))
        endpoint = self.cluster.endpoints[key]
        with self.disturbing(lambda *_: False):
            self.cluster.put_endpoint(key, replace(endpoint, ready=not endpoint.ready))

    @precondition(lambda self: self.cluster.endpoints)
    @rule(data=st.data(), ready=st.booleans())
    def mark_for_deletion(self, data: st.DataObject, ready: bool) -> None:
        """Its clients may leave it, to others only."""
        key = data.draw(st.sampled_from(sorted(self.cluster.endpoints, key=words)))
        endpoint = self.cluster.endpoints[key]
        before = self.cluster.granted()
        with self.disturbing(lambda _, c: c.server.pod.uid == endpoint.pod.uid):
            self.cluster.put_endpoint(key, replace(endpoint, ready=ready, leaving=True))
        assert before.keys() <= self.cluster.granted().keys()

    @rule(client=nodes, server=nodes, is_silent=st.booleans())
    def fall_silent_or_answer(self, client: str, server: str, is_silent: bool) -> None:
        """What one node hears through its tunnels to another one: who hears nothing may go, to others only."""
        before = self.cluster.granted()
        paths = self.cluster.state.paths

        def is_on(connection: Connection) -> bool:
            return (connection.client.pod.node, connection.server.pod.node) == (client, server)

        with self.disturbing(lambda _, c: is_silent and is_on(c)):
            paths.put(client, server, is_silent=is_silent)
            on_path = {k for k, c in before.items() if c.vni and is_on(c)}
            paths.lost = paths.lost | on_path if is_silent else paths.lost - on_path
        assert before.keys() <= self.cluster.granted().keys()

    @rule(name=objects, spec=st.sampled_from(SPECS), routes=st.sampled_from(ROUTES))
    def edit_object(self, name: str, spec: IpamSpec, routes: tuple[str, ...]) -> None:
        self.specs[name] = spec, routes
        with self.disturbing(lambda _, c: c.endpoint == name):
            for key, endpoint in list(self.cluster.endpoints.items()):
                if endpoint.endpoint == name:
                    self.cluster.put_endpoint(key, self.specified(endpoint))

    # prefixes in use

    @rule(
        hard=st.sets(st.sampled_from(EXCLUSIONS), max_size=2),
        soft=st.sets(st.sampled_from(EXCLUSIONS), max_size=1),
    )
    def exclude(self, hard: set[str], soft: set[str]) -> None:
        before = self.cluster.granted()
        with self.disturbing(lambda *_: False):
            self.cluster.exclude(hard=hard, soft=soft)
            self.forgiven = {
                (k, c.client.addresses) for k, c in before.items() if self.swallowed(c)
            } | {(request_key(k), c.client.addresses) for k, c in self.cluster.kernels.items()}
            self.routed = {k for k, c in before.items() if self.routes_swallowed(c)}

    # nodes

    @rule(node=nodes, dies=st.booleans())
    def work(self, node: str, dies: bool) -> None:
        """A node does what the bus says; ipam does not hear of it yet."""
        with self.disturbing(lambda *_: False):
            self.cluster.work(node, dies=dies)

    @precondition(lambda self: self.cluster.undelivered())
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(self.cluster.undelivered()), min_size=1))
        with self.disturbing(lambda *_: False):
            for key in some:
                self.cluster.deliver(key)

    @precondition(lambda self: self.cluster.delivered)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.cluster.delivered, key=words)))
        with self.disturbing(lambda *_: False):
            self.cluster.deliver(key)

    @rule(node=nodes, mtu=st.sampled_from((1400, 1500, 9000)), has_tunnels=st.booleans())
    def change_facts(self, node: str, mtu: int, has_tunnels: bool) -> None:
        if node in self.cluster.facts:
            with self.disturbing(lambda _, c: node in (c.client.pod.node, c.server.pod.node)):
                self.cluster.add_node(facts_of(node, mtu=mtu, has_tunnels=has_tunnels))

    @rule(node=nodes, is_ready=st.booleans())
    def change_node_readiness(self, node: str, is_ready: bool) -> None:
        """Kubernetes says that a node is not ready: its endpoints may lose their clients, to others only."""
        before = self.cluster.granted()
        with self.disturbing(lambda _, c: c.server.pod.node == node):
            for key, endpoint in list(self.cluster.endpoints.items()):
                if endpoint.pod.node == node:
                    pod = replace(endpoint.pod, node_ready=is_ready)
                    self.cluster.put_endpoint(key, replace(endpoint, pod=pod))
        assert before.keys() <= self.cluster.granted().keys()

    @precondition(lambda self: len(self.cluster.facts) > 1)
    @rule(node=nodes)
    def lose_node(self, node: str) -> None:
        if node in self.cluster.facts:
            with self.disturbing(lambda _, c: node in (c.client.pod.node, c.server.pod.node)):
                self.cluster.lose_node(node)

    @rule(node=nodes)
    def bring_node_back(self, node: str) -> None:
        if node not in self.cluster.facts:
            with self.disturbing(lambda *_: False):
                self.cluster.add_node(facts_of(node))

    # failures

    @rule()
    def restart(self) -> None:
        with self.disturbing(lambda *_: False):
            self.cluster.restart()

    @precondition(lambda self: not self.cluster.silent)
    @rule(silent=st.sets(nodes, max_size=2))
    def wipe(self, silent: set[str]) -> None:
        """What a kernel has as it was granted keeps everything; what nobody wired yet may get anything."""
        quiet = silent & self.cluster.facts.keys()
        standing = {
            k: c
            for k, c in self.cluster.granted().items()
            if self.is_applied(c) and not {c.client.pod.node, c.server.pod.node} <= quiet
        }
        self.cluster.wipe(quiet)
        with self.disturbing(lambda *_: True):
            pass
        now = self.cluster.granted()
        affected = self.moved
        for key, connection in standing.items():
            if key not in affected and not (self.heals(key, connection) and key in now):
                assert is_same(now.get(key), connection), f"{key}: {self.cluster.refusals.get(key)}"

    @precondition(lambda self: self.cluster.silent)
    @rule(data=st.data())
    def speak(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.cluster.silent)))
        with self.disturbing(lambda *_: False):
            self.cluster.speak(node)

    def teardown(self) -> None:
        """Everybody leaves and every node says so: nothing may stay behind."""
        for node in sorted(self.cluster.silent):
            self.cluster.speak(node)
        self.cluster.settle_all()
        self.cluster.requests.clear()
        self.everything_arrives()
        assert not self.cluster.granted()
        assert not self.cluster.refusals
        assert not self.cluster.kernels
        for key in self.ever:
            assert not self.cluster.state.held(key), f"{key} is still held"
        for pool in self.cluster.pools.values():
            for figures in pool.families:
                assert (figures.used, figures.held) == (0, 0), f"{pool.endpoint}: {figures}"

    # what every step is judged by

    @contextmanager
    def disturbing(self, may_change: Callable[[RequestKey, Connection], bool]) -> Iterator[None]:
        """A step, all that follows from it, and the verdict: only what it concerns has changed."""
        before = self.cluster.granted()
        healing = {k for k, c in before.items() if self.heals(k, c)}
        yield
        self.moved = set(self.cluster.state.affected())
        self.cluster.settle_all()
        self.moved |= set(self.cluster.readdress())
        self.cluster.settle_all()
        now = self.cluster.granted()
        for key, connection in before.items():
            if (key in healing or self.heals(key, connection)) and key in now:
                continue  # whenever there is somebody else
            if not may_change(key, connection) and key not in self.moved:
                assert is_same(now.get(key), connection), (
                    f"{key} was disturbed: {now.get(key) or self.cluster.refusals.get(key)}"
                )
        self.judge()

    def judge(self) -> None:
        cluster = self.cluster
        swallowed = {k: c for k, c in cluster.granted().items() if self.swallowed(c)}
        picture = cluster.picture()
        # Every exclusion may be late here; whether it is for a connection is judged below.
        assert checker.conflicts(picture, late=cluster.hard) == []
        assert list(doubled(cluster)) == []
        for key, connection in swallowed.items():
            # A route cannot be exchanged: it stays, whatever addresses its connection got since.
            is_forgiven = (key, connection.client.addresses) in self.forgiven
            assert is_forgiven or key in self.routed, f"{key} is in use"
            if not self.routes_swallowed(connection):
                possible = surely_possible(cluster, picture, cluster.requests[key], but=key)
                assert not possible, f"{key} could be re-addressed by {possible}"
        for key, refusal in cluster.refusals.items():
            possible = surely_possible(cluster, picture, cluster.requests[key])
            assert not possible, f"{possible} could serve {key}: {refusal}"
        for key in cluster.known():
            writes = cluster.answer(key)
            assert not (writes.granted or writes.released or writes.refused or writes.forgiven), (
                f"{key} is decided anew: {writes}"
            )

    def everything_arrives(self) -> None:
        """Until the bus, the kernels and ipam agree."""
        for _ in range(20):
            self.cluster.settle_all()
            for node in NODES:
                self.cluster.work(node)
            behind = self.cluster.undelivered()
            if not behind:
                return
            for key in behind:
                self.cluster.deliver(key)
        raise AssertionError("nodes and ipam do not come to rest")

    # details

    def heals(self, key: RequestKey, connection: Connection) -> bool:
        """Whether it moves as soon as somebody else can serve it."""
        endpoints = self.cluster.endpoints.values()
        uid = connection.server.pod.uid
        return key in self.cluster.state.paths.lost or any(
            e.pod.uid == uid and (e.leaving or not e.pod.node_ready) for e in endpoints
        )

    def pod(self, name: str, node: str) -> PodRef:
        self.born += 1
        ips = (f"10.244.{int(node[-1])}.{self.born % 250 + 2}",)
        return PodRef(namespace="default", name=name, uid=f"{name}-{self.born}", node=node, ips=ips)

    def put_replica(self, name: str, replica: str, node: str) -> None:
        endpoint = Endpoint(
            endpoint=name,
            pod=self.pod(f"{name}-{replica}", node),
            ready=True,
            network_services=(OBJECTS[name],),
        )
        endpoint = self.specified(endpoint)
        self.cluster.put_endpoint(endpoint.key, endpoint)

    def specified(self, endpoint: Endpoint) -> Endpoint:
        spec, routes = self.specs[endpoint.endpoint]
        return replace(endpoint, ipam=spec, routes=tuple(Route(destination=r) for r in routes))

    def end_pod(self, keys: set[RequestKey]) -> None:
        for key in keys:
            self.end_netns(self.cluster.requests[key].pod.uid)
            del self.cluster.requests[key]

    def end_netns(self, uid: str) -> None:
        """On a node that is silent nobody says that a Pod's network is gone; it is all the same."""
        for where, has in list(self.cluster.kernels.items()):
            if where.node in self.cluster.silent and uid in (
                has.client.pod.uid,
                has.server.pod.uid,
            ):
                del self.cluster.kernels[where]

    def affected(self) -> list[RequestKey]:
        return self.cluster.state.affected()

    def swallowed(self, connection: Connection) -> bool:
        return any(self.swallows(prefix, connection) for prefix in self.cluster.hard)

    def swallows(self, prefix: str, connection: Connection) -> bool:
        cover = Cover([span(prefix)])
        ends = (connection.client, connection.server)
        uses = [address(a) for e in ends for a in e.addresses]
        uses += [span(r.destination) for r in connection.client.routes if "/0" not in r.destination]
        return any(cover.find(one) is not None for one in uses)

    def routes_swallowed(self, connection: Connection) -> bool:
        cover = Cover(span(p) for p in self.cluster.hard)
        return any(
            cover.find(span(r.destination)) is not None
            for r in connection.client.routes
            if r.destination != "0.0.0.0/0"
        )

    def is_applied(self, connection: Connection) -> bool:
        """Whether the kernels of both ends have it as it was granted."""
        for node in {connection.client.pod.node, connection.server.pod.node}:
            where = status_key(replace(connection, node=node).key)
            has = self.cluster.kernels.get(where)
            if has is None or replace(has, node=connection.node) != connection:
                return False
        return True

    def is_fit(self, connection: Connection) -> bool:
        """Whether its own addresses could be granted today."""
        spec = self.cluster.picture().objects().get(object_of(connection))
        if spec is None or self.swallowed(connection) or self.cluster.soft or self.cluster.hard:
            return False
        serving = [
            e
            for e in self.cluster.endpoints.values()
            if e.pod.uid == connection.server.pod.uid
            and e.ready
            and e.pod.node_ready
            and reaches(self.cluster, e, self.cluster.requests[request_key(connection.key)])
        ]
        own = Cover(usable(self.cluster.picture(), object_of(connection), spec))
        return bool(serving) and all(own.find(address(a)) for a in connection.client.addresses)


def facts_of(node: str, *, mtu: int = 1500, has_tunnels: bool = True) -> NodeFacts:
    return NodeFacts(
        node=node,
        underlay_address=f"192.0.2.{node[-1]}",
        mtu=mtu,
        mechanisms=("veth", "vxlan") if has_tunnels else ("veth",),
        complete=True,
    )


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=int(os.environ.get("NSM_MACHINE_EXAMPLES", "60")),
    stateful_step_count=30,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    database=None,
    suppress_health_check=list(HealthCheck),
)


SMALL = [SPECS[0]] * len(OBJECTS)


def begun() -> Machine:
    machine = Machine()
    machine.begin(SMALL)
    return machine


def addresses(machine: Machine) -> dict[str, tuple[str, ...]]:
    return {key.pod: c.client.addresses for key, c in machine.cluster.granted().items()}


def ask(machine: Machine, name: str) -> None:
    machine.ask(name=name, service="corp", node="node2", interface="i1")


def test_what_a_node_never_spoke_of_is_held_over_a_restart_until_it_confirms():
    machine = begun()
    ask(machine, "c0")
    first = addresses(machine)["c0"]
    machine.cluster.work("node2", dies=True)
    del machine.cluster.requests[RequestKey("default", "c0", "i1")]
    machine.cluster.settle_all()
    machine.restart()
    ask(machine, "c1")
    assert addresses(machine)["c1"] != first
    machine.everything_arrives()
    ask(machine, "c2")
    assert addresses(machine)["c2"] == first
    machine.teardown()


def test_the_confirmation_of_one_of_two_nodes_frees_nothing():
    machine = begun()
    machine.ask(name="c0", service="corp", node="node1", interface="i1")
    first = addresses(machine)["c0"]
    machine.everything_arrives()
    del machine.cluster.requests[RequestKey("default", "c0", "i1")]
    machine.cluster.settle_all()
    machine.cluster.work("node1")
    for key in machine.cluster.undelivered():
        machine.cluster.deliver(key)
    ask(machine, "c1")
    assert addresses(machine)["c1"] != first
    machine.teardown()


def test_on_a_wiped_bus_nothing_is_given_that_a_silent_node_may_have():
    machine = begun()
    ask(machine, "c0")
    first = addresses(machine)["c0"]
    machine.everything_arrives()
    machine.wipe(silent={"node2"})
    machine.ask(name="c1", service="corp", node="node1", interface="i1")
    assert addresses(machine) == {}
    machine.cluster.speak("node2")
    machine.cluster.settle_all()
    assert addresses(machine)["c0"] == first
    assert addresses(machine)["c1"] != first
    machine.teardown()


def test_a_replaced_revision_that_no_node_spoke_of_is_held_over_a_restart():
    machine = begun()
    ask(machine, "c0")
    (first,) = machine.cluster.granted().values()
    machine.cluster.work("node2", dies=True)
    machine.exclude(hard={"172.16.1.96/30"}, soft=set())
    machine.exclude(hard=set(), soft=set())
    machine.restart()
    ask(machine, "c1")
    assert addresses(machine)["c1"][0] not in first.client.addresses + first.server.addresses
