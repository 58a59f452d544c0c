"""The capture in real namespaces: who is captured, who is not, and how it ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from schemas.subjects import ResolverKey
from services._node import links, netns, nft, nft_rules
from services._node.nft import Message, Nft
from services.dns.adapters import (
    Capture,
    Conflict,
    Gone,
    Kernel,
    NoServers,
    Refused,
    captured_ports,
    cluster_servers,
    node_searches,
    node_servers,
)
from services.dns.model import Profile
from services.dns.service.captures import Captures
from tests.dns.networks import (
    DNS_V4,
    DNS_V6,
    ELSEWHERE,
    Client,
    Cluster,
    ask,
    ask_tcp,
    serving,
    v6_of,
)
from tests.node.sandboxes import Pod

ROOT = Path(__file__).parent.parent.parent
PORT = 5353


@pytest.fixture
def pod(pods: Callable[[str], Pod]) -> Pod:
    return pods("client")


@pytest.fixture
def cluster_dns(cluster: Cluster) -> Iterator[list[tuple[str, bytes]]]:
    with serving(cluster.netns, (DNS_V4, DNS_V6, ELSEWHERE), lambda _: b"cluster") as asked:
        yield asked


@pytest.fixture
def answerer(pod: Pod) -> Iterator[list[tuple[str, bytes]]]:
    with serving(pod.netns, ("127.0.0.1", "::1"), lambda _: b"captured", port=PORT) as asked:
        yield asked


@contextmanager
def captured(pod: Pod, *, owned: bool = True) -> Iterator[Capture]:
    capture = Capture(pod.netns, PORT, owned=owned)
    try:
        yield capture
    finally:
        capture.close()


def tables(pod: Pod) -> set[str]:
    """Our two tables count as one while both stand."""
    found = every_table(pod)
    return found - {"nsm_dns_open"} if "nsm_dns" in found else found


def every_table(pod: Pod) -> set[str]:
    with Nft(pod.netns) as socket_:
        return {nft.read_text(found[1]) for _, found in socket_.dump(Message(nft.GET_TABLE, 0))}


@pytest.mark.parametrize("owned", [True, False], ids=["owned", "timed"])
@pytest.mark.parametrize("server", [DNS_V4, DNS_V6, ELSEWHERE])
@pytest.mark.parametrize("asked", [ask, ask_tcp], ids=["udp", "tcp"])
def test_a_query_to_any_server_is_captured(
    pod, cluster_dns, answerer, *, server, asked, owned
) -> None:
    assert asked(pod.netns, server) == b"cluster"

    with captured(pod, owned=owned):
        assert asked(pod.netns, server) == b"captured"

    assert asked(pod.netns, server) == b"cluster"
    assert tables(pod) == set()


def test_a_captured_query_keeps_its_source(pod, cluster_dns, answerer) -> None:
    with captured(pod):
        ask(pod.netns, DNS_V4)
        ask(pod.netns, DNS_V6)

    assert [source for source, _ in answerer] == [pod.ip, v6_of(pod)]


@pytest.mark.parametrize("mark", [0x539, 0xABC539], ids=hex)
def test_marked_queries_are_exempt(pod, cluster_dns, answerer, mark) -> None:
    with captured(pod):
        assert ask(pod.netns, DNS_V4, mark=mark) == b"cluster"
        assert ask(pod.netns, DNS_V4, mark=mark + 1) == b"captured"


@pytest.mark.parametrize("change", ["setegid", "seteuid"])
def test_a_sidecars_user_is_exempt(pod, cluster_dns, answerer, change) -> None:
    if os.getuid() != 0 or not _may_become(1337):
        pytest.skip("no user 1337 in this user namespace: run as root")
    with captured(pod):
        child = subprocess.run(
            [sys.executable, "-c", _AS_SIDECAR, pod.netns, change, DNS_V4],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )

    assert child.stdout == b"cluster"


_AS_SIDECAR = """
import os, socket, sys
from services._node import netns
place, change, server = sys.argv[1:]

def ask():
    getattr(os, change)(1337)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(2)
        made.sendto(b"?", (server, 53))
        return made.recv(100).decode()

sys.stdout.write(netns.in_netns(place, ask))
"""


def _may_become(user: int) -> bool:
    first, _, count = Path("/proc/self/uid_map").read_text().split()[:3]
    return int(first) <= user < int(first) + int(count)


def test_a_connection_made_before_the_capture_goes_on(pod, cluster, answerer) -> None:
    with (
        netns.open_socket(cluster.netns, socket.AF_INET, socket.SOCK_STREAM) as listener,
        netns.open_socket(pod.netns, socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.bind((DNS_V4, 53))
        listener.listen()
        client.settimeout(2)
        client.connect((DNS_V4, 53))
        server, _ = listener.accept()
        with server, captured(pod):
            server.settimeout(2)
            client.sendall(b"question")
            assert server.recv(100) == b"question"
            server.sendall(b"answer")
            assert client.recv(100) == b"answer"
            assert ask_tcp(pod.netns, DNS_V4) == b"captured"


@pytest.mark.parametrize("asked", [ask, ask_tcp], ids=["udp", "tcp"])
def test_a_family_that_nobody_listens_on_is_not_captured(pod, cluster_dns, asked) -> None:
    with (
        serving(pod.netns, ("127.0.0.1",), lambda _: b"captured", port=PORT),
        closing(Capture(pod.netns, PORT, families=[socket.AF_INET])),
    ):
        assert asked(pod.netns, DNS_V4) == b"captured"
        assert asked(pod.netns, DNS_V6) == b"cluster"


async def test_a_pod_without_ipv6_loopback_keeps_its_own_way_for_ipv6(pod, cluster_dns) -> None:
    with links.Netlink(pod.netns) as netlink:
        netlink.request(
            [links.address(links.DELADDR, index=1, address="::1/128")],
        )
    kernel = Kernel()
    captures = Captures(kernel, CollectorRegistry(), on_trouble=lambda _: None)
    key = ResolverKey("node1", "default", "client")
    try:
        place = await kernel.find_place(pod.result)
        await captures.make(key, place, Profile(upstreams=()))

        assert await asyncio.to_thread(ask, pod.netns, DNS_V6) == b"cluster"
        assert await asyncio.to_thread(ask, pod.netns, DNS_V4) != b"cluster"
        await captures.release(key, "test")
    finally:
        kernel.close()
        captures.close()


def test_other_ports_are_not_captured(pod, cluster, answerer) -> None:
    with (
        serving(cluster.netns, (DNS_V4,), lambda _: b"other", port=54),
        captured(pod),
        netns.open_socket(pod.netns, socket.AF_INET, socket.SOCK_DGRAM) as made,
    ):
        made.settimeout(2)
        made.sendto(b"?", (DNS_V4, 54))
        assert made.recv(100) == b"other"


def ask_port(pod: Pod, port: int) -> bytes:
    with netns.open_socket(pod.netns, socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(2)
        made.sendto(b"?", (DNS_V4, port))
        return made.recv(100)


def test_the_ports_of_the_clusters_dns_pods_are_captured_too_and_freed_again(
    pod, cluster, answerer
) -> None:
    """Where sockets are balanced, the Pod's packet names that port, not 53, before any hook of ours."""
    with (
        serving(cluster.netns, (DNS_V4,), lambda _: b"cluster", port=8053),
        serving(cluster.netns, (DNS_V4,), lambda _: b"cluster"),
    ):
        assert ask_port(pod, 8053) == b"cluster"
        capture = Capture(pod.netns, PORT, captured=(53, 8053))
        try:
            assert [ask_port(pod, port) for port in (53, 8053)] == [b"captured"] * 2
            capture.refresh()
            assert [ask_port(pod, port) for port in (53, 8053)] == [b"captured"] * 2
        finally:
            capture.close()

        assert [ask_port(pod, port) for port in (53, 8053)] == [b"cluster"] * 2


def test_ports_are_told_as_numbers() -> None:
    assert captured_ports("") == (53,)
    assert captured_ports(" 8053, 53,5353") == (53, 8053, 5353)
    for text in ("dns", "0", "65536", "-1", "5\u0663"):
        with pytest.raises(ValueError, match="DNS_TARGET_PORTS"):
            captured_ports(text)


def test_a_stopped_capture_takes_nothing_new_and_what_it_took_is_answered(
    pod, cluster_dns, answerer
) -> None:
    before = Client(pod.netns)
    with captured(pod) as capture, closing(before):
        assert before.ask(DNS_V4) == b"captured"
        capture.stop()

        assert ask(pod.netns, DNS_V4) == b"cluster"
        assert before.ask(DNS_V4) == b"captured"
        capture.stop()


# -- failing open


@contextmanager
def held(pod: Pod, directory: Path, mode: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process holds the capture of a Pod."""
    ready = directory / "ready"
    command = [sys.executable, "-m", "tests.dns.holder", pod.netns, mode, str(ready)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            deadline = time.monotonic() + 60
            while not (ready.exists() and ready.read_text()):
                assert process.poll() is None and time.monotonic() < deadline, "no capture"
                time.sleep(0.01)
            assert ready.read_text() == mode
            yield process
        finally:
            process.kill()


def within(seconds: float, condition: Callable[[], bool]) -> float:
    """Seconds until it held."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - start


def test_the_end_of_the_process_is_the_end_of_the_capture(pod, cluster_dns, tmp_path) -> None:
    with held(pod, tmp_path, "owned") as process:
        client = Client(pod.netns)
        assert client.ask(DNS_V4) == b"captured"

        process.send_signal(signal.SIGKILL)
        process.wait()
        within(0.5, lambda: every_table(pod) == {"nsm_dns_open"})

        assert ask(pod.netns, DNS_V4) == b"cluster"
        assert client.ask(DNS_V4) == b"cluster"
        client.close()


@pytest.mark.parametrize("server", [DNS_V4, DNS_V6])
def test_where_others_use_nat_the_end_of_the_process_is_the_end_of_the_capture(
    pod, cluster_dns, tmp_path, server
) -> None:
    """Their NAT keeps connection tracking at work, and that keeps the sockets of former queries captured."""
    with redirect_in(pod, 80), held(pod, tmp_path, "owned") as process:
        client = Client(pod.netns, links.family_of(server))
        assert client.ask(server) == b"captured"

        process.kill()
        process.wait()

        assert ask(pod.netns, server) == b"cluster"
        within(4, lambda: client.ask(server, seconds=0.1) == b"cluster")
        client.close()


@pytest.mark.parametrize("foreign_nat", [True, False])
def test_sockets_of_a_killed_process_are_captured_by_the_next_one(
    pod, cluster_dns, tmp_path, *, foreign_nat
) -> None:
    with ExitStack() as stack:
        if foreign_nat:
            stack.enter_context(redirect_in(pod, 80))
        with held(pod, tmp_path, "owned") as process:
            client = Client(pod.netns)
            stack.callback(client.close)
            assert client.ask(DNS_V4) == b"captured"
            process.kill()
            process.wait()

        next_port = PORT + 1
        stack.enter_context(serving(pod.netns, ("127.0.0.1",), lambda _: b"next", port=next_port))
        with closing(Capture(pod.netns, next_port)):
            assert client.ask(DNS_V4) == b"next"


@pytest.mark.parametrize("gone", ["nsm_dns", "nsm_dns_open"])
def test_a_capture_that_lost_a_table_says_so_and_leaves_none(pod, gone) -> None:
    with captured(pod, owned=False) as capture:
        with Nft(pod.netns) as somebody:
            somebody.transact([nft_rules.delete_table(gone)])
        with pytest.raises(Refused):
            capture.refresh()

    assert every_table(pod) == set()


def test_where_others_use_nat_a_release_frees_old_sockets_at_once(
    pod, cluster_dns, answerer
) -> None:
    with redirect_in(pod, 80):
        client = Client(pod.netns)
        with captured(pod):
            assert client.ask(DNS_V4) == b"captured"

        assert client.ask(DNS_V4) == b"cluster"
        assert every_table(pod) == {"sidecar"}
        client.close()


async def test_what_a_killed_process_left_goes_when_the_pod_is_found(
    pod, cluster_dns, tmp_path
) -> None:
    kernel = Kernel()
    try:
        with held(pod, tmp_path, "owned") as process:
            await kernel.find_place(pod.result)
            assert every_table(pod) == {"nsm_dns", "nsm_dns_open"}, "it lives still"
            process.kill()
            process.wait()
            within(0.5, lambda: every_table(pod) == {"nsm_dns_open"})

        place = await kernel.find_place(pod.result)
        assert every_table(pod) == set()

        capture = await kernel.capture(place, PORT)
        await kernel.find_place(pod.result)
        assert every_table(pod) == {"nsm_dns", "nsm_dns_open"}
        await kernel.release(capture)
        assert every_table(pod) == set()
    finally:
        kernel.close()


def test_without_an_owner_the_capture_ends_by_time(pod, cluster_dns, tmp_path) -> None:
    with held(pod, tmp_path, "timed") as process:
        assert ask(pod.netns, DNS_V4) == b"captured"
        process.send_signal(signal.SIGKILL)
        process.wait()

        within(4, lambda: ask(pod.netns, DNS_V4, seconds=0.1) == b"cluster")

    with (
        serving(pod.netns, ("127.0.0.1",), lambda _: b"captured", port=PORT),
        captured(pod, owned=False),
    ):
        assert ask(pod.netns, DNS_V4) == b"captured"


@pytest.mark.parametrize("server", [DNS_V4, DNS_V6])
def test_a_hanging_process_captures_no_longer_than_four_seconds(
    pod, cluster_dns, tmp_path, server
) -> None:
    """Nor does the socket of a former query stay captured, however often it is used."""
    family = links.family_of(server)
    with held(pod, tmp_path, "owned") as process:
        busy, idle, rare = (Client(pod.netns, family) for _ in range(3))
        for client in (busy, idle, rare):
            assert client.ask(server) == b"captured"

        process.send_signal(signal.SIGSTOP)
        within(4, lambda: busy.ask(server, seconds=0.1) == b"cluster")
        assert ask(pod.netns, server) == b"cluster"
        assert idle.ask(server) == b"cluster"

        process.send_signal(signal.SIGCONT)
        within(1, lambda: ask(pod.netns, server, seconds=0.1) == b"captured")
        for client in (busy, idle, rare):
            assert client.ask(server) == b"captured"
            client.close()


def test_a_late_answer_finds_its_way_back(pod, cluster_dns) -> None:
    """Connection tracking remembers a captured query longer than we may take for it."""

    def late(_: bytes) -> bytes:
        time.sleep(2.2)
        return b"captured"

    with serving(pod.netns, ("127.0.0.1",), late, port=PORT), captured(pod):
        client = Client(pod.netns)
        assert client.ask(DNS_V4, seconds=5) == b"captured"
        client.close()


def test_a_refreshed_capture_stands(pod, cluster_dns, answerer) -> None:
    with captured(pod) as capture:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            capture.refresh()
            assert ask(pod.netns, DNS_V4) == b"captured"
            time.sleep(0.5)


# -- other people's redirects


def redirect_in(pod: Pod, port: int = 53, *, target: int = 15053) -> Nft:
    """Somebody else's table; it goes with the socket."""
    foreign = Nft(pod.netns)
    foreign.transact(
        [
            nft_rules.table("sidecar", flags=nft.OWNER),
            nft_rules.base_chain(
                "sidecar", "output", kind="nat", hook=nft_rules.LOCAL_OUT, priority=-100
            ),
            nft_rules.rule(
                "sidecar",
                "output",
                [
                    *nft_rules.meta_is(nft_rules.L4PROTO, bytes([17])),
                    *nft_rules.port_is(port),
                    *nft_rules.redirect(target),
                ],
            ),
        ]
    )
    return foreign


def test_a_foreign_redirect_is_a_conflict_before_and_after(pod) -> None:
    with redirect_in(pod), pytest.raises(Conflict, match="table 'sidecar'"):
        Capture(pod.netns, PORT)
    assert tables(pod) == set()

    with captured(pod) as capture:
        capture.check()
        with redirect_in(pod), pytest.raises(Conflict, match="opt the Pod out"):
            capture.check()


def test_two_captures_of_ours_are_refused_not_mixed(pod) -> None:
    with captured(pod), pytest.raises(Refused, match="another process's"):
        Capture(pod.netns, PORT)


# -- sockets and places


async def test_the_kernel_finds_only_the_pods_own_network(pod, tmp_path) -> None:
    kernel = Kernel()
    try:
        place = await kernel.find_place(pod.result)
        assert await kernel.is_there(place)
        with pytest.raises(Gone):
            await kernel.find_place(
                type(pod.result)(
                    uid="u", namespace="d", name="n", container_id="c", netns="/proc/self/ns/net"
                )
            )
        pod.end()
        assert not await kernel.is_there(place)
        with pytest.raises(Gone):
            await kernel.find_place(pod.result)
        with pytest.raises(Gone):
            await kernel.capture(place, PORT)
    finally:
        kernel.close()


async def test_upstream_sockets_are_marked_and_bound_and_listeners_are_not(
    pod, cluster_dns
) -> None:
    kernel = Kernel()
    try:
        place = await kernel.find_place(pod.result)
        for upstream, device, mark in (
            ("", b"", 0),
            ("cluster", b"eth0", 0x539),
            ("eth0", b"eth0", 0x539),
        ):
            with kernel.open_socket(
                place, socket.AF_INET, socket.SOCK_DGRAM, upstream=upstream
            ) as made:
                bound = made.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
                assert bound.rstrip(b"\0") == device
                assert made.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == mark
                assert not made.getblocking()
        with pytest.raises(OSError, match="No such device"):
            kernel.open_socket(place, socket.AF_INET, socket.SOCK_DGRAM, upstream="nsm-absent")
    finally:
        kernel.close()


async def test_a_socket_never_opens_in_another_network_of_the_same_name(pod) -> None:
    kernel = Kernel()
    try:
        place = await kernel.find_place(pod.result)
        pod.end()
        netns.create(place.netns)
        with pytest.raises(FileNotFoundError, match="another network namespace"):
            kernel.open_socket(place, socket.AF_INET, socket.SOCK_DGRAM, upstream="")
        with pytest.raises(Gone):
            await kernel.capture(place, PORT)
    finally:
        kernel.close()


async def test_a_capture_pins_the_network_until_it_is_released(pod, cluster) -> None:
    """The peer of eth0 goes with the namespace: that is how its end is seen."""
    kernel = Kernel()
    try:
        place = await kernel.find_place(pod.result)
        capture = await kernel.capture(place, PORT)
        pod.end()
        await asyncio.sleep(0.1)
        assert _has_link(cluster, "pod2")

        await kernel.release(capture)
        async with asyncio.timeout(2):
            while _has_link(cluster, "pod2"):
                await asyncio.sleep(0.005)
    finally:
        kernel.close()


def _has_link(cluster: Cluster, name: str) -> bool:
    with links.Netlink(cluster.netns) as netlink:
        return netlink.find_link(name) is not None


# -- the cluster's servers


def test_the_clusters_servers_are_those_told_or_those_of_resolv_conf(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text(
        "search svc\nnameserver 127.0.0.53\nnameserver 10.96.0.10\nnameserver fd00::a\n"
    )

    assert cluster_servers("10.0.0.1, fd00::1") == ("10.0.0.1", "fd00::1")
    assert cluster_servers("", resolv_conf=conf) == ("10.96.0.10", "fd00::a")


def test_servers_of_the_nodes_are_those_told_or_none() -> None:
    assert node_servers("") == ()
    assert node_servers("192.0.2.1, 2001:db8::1") == ("192.0.2.1", "2001:db8::1")
    with pytest.raises(NoServers, match="DNS_NODE_SERVERS"):
        node_servers("no address")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("search nsm-system.svc.k8s.test svc.k8s.test k8s.test\n", ()),
        (
            "search nsm-system.svc.k8s.test svc.k8s.test k8s.test Corp.Example. corp.k8s.test\n",
            ("corp.example", "corp.k8s.test"),
        ),
        ("search svc.k8s.test old.test\n# a\nsearch svc.k8s.test new.test\n", ("new.test",)),
        ("search svc.k8s.test . new.test\n", ("new.test",)),
        ("search corp.example\n", ()),  # of a machine, as in a lab: Pods' own files do not have it
        ("domain corp.example\n", ()),
        ("nameserver 10.96.0.10\nsearch\n", ()),
        (b"\xff\xfe", ()),
        (None, ()),
    ],
)
def test_search_domains_of_the_node_are_what_a_kubelet_adds_to_the_clusters(
    tmp_path: Path, text: str | bytes | None, expected: tuple[str, ...]
) -> None:
    conf = tmp_path / "resolv.conf"
    if text is not None:
        conf.write_bytes(text if isinstance(text, bytes) else text.encode())

    assert node_searches("k8s.test", resolv_conf=conf) == expected


def test_without_a_server_of_the_cluster_nothing_starts(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.53\n")

    with pytest.raises(NoServers, match="set DNS_CLUSTER_SERVERS"):
        cluster_servers("", resolv_conf=conf)
    with pytest.raises(NoServers, match=r"'dns\.local' is no address"):
        cluster_servers("dns.local")
    with pytest.raises(NoServers, match=r"' , ' names no server: give addresses"):
        cluster_servers(" , ")
    conf.write_text("nameserver 10.96.0.10\nnameserver foo\n")
    with pytest.raises(
        NoServers, match=r"resolv\.conf: 'foo' is no address: .* DNS_CLUSTER_SERVERS"
    ):
        cluster_servers("", resolv_conf=conf)
