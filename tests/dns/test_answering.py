"""Whole conversations: client, resolver and upstreams as real sockets on loopback."""

import asyncio
import contextlib
import errno
import random
import socket
import statistics
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.dns.core import queries, timers
from services.dns.core.health import State
from services.dns.core.servers import Server, Where
from services.dns.model import Limits, Profile
from services.dns.service.answering import Answerer, Engine, upstreams
from tests.dns.upstreams import (
    a_free_port,
    a_profile,
    a_query,
    ask,
    ask_tcp,
    cluster,
    dnslib,
    outcome,
    parsed,
    says,
    service,
    serving,
    silent,
)

A, B, C, DEAD = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.9"


class Pod:
    """A resolver with its port, and what the opener was asked for."""

    def __init__(self, limits: Limits | None) -> None:
        self.registry = CollectorRegistry()
        self.engine = Engine(self.registry, limits=limits)
        self.upstream_port = a_free_port()
        self.opened: list[tuple[int, int, str]] = []
        self.loops = 0
        self.refuse: Callable[[str], bool] = lambda _: False
        self.answerer: Answerer
        self.port = 0

    def open(self, profile: Profile) -> None:
        self.answerer = Answerer(
            self._opener,
            engine=self.engine,
            profile=profile,
            on_loop=self._looped,
            upstream_port=self.upstream_port,
        )
        self.port = self.answerer.open()

    def _opener(self, family: int, kind: int, *, upstream: str) -> socket.socket:
        self.opened.append((family, kind, upstream))
        if self.refuse(upstream):
            raise OSError(19, "no such device")
        return socket.socket(family, kind)

    def _looped(self) -> None:
        self.loops += 1

    @property
    def server(self) -> Server:
        """The only one that was asked."""
        [found] = self.answerer.servers
        return found

    def ports(self, server: Server) -> Any:
        return server.ports

    def figure(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    async def ask(self, name: str, kind: str = "A", **more: Any) -> tuple[str, list[str]]:
        return outcome(await ask(self.port, a_query(name, kind), **more))


@contextlib.asynccontextmanager
async def a_pod(limits: Limits | None = None) -> AsyncIterator[Pod]:
    made, faults = Pod(limits), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    try:
        yield made
    finally:
        made.answerer.close()
        made.engine.close()
    assert faults == []


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    async with a_pod() as made:
        yield made


def now() -> float:
    return asyncio.get_running_loop().time()


# --- fan-out and scope -------------------------------------------------------------------------------------


async def test_all_upstreams_in_scope_see_the_query_at_the_same_moment_and_no_others(pod):
    port = pod.upstream_port
    async with (
        serving(A, port, says(rcode="NXDOMAIN", after=0.05)) as first,
        serving(B, port, says(rcode="NXDOMAIN", after=0.05)) as second,
        serving(C, port, says("@ 5 A 10.0.0.3")) as third,
    ):
        pod.open(
            a_profile(
                cluster(A),
                service("x", B, domains=("corp.example",)),
                service("y", C, domains=("other.example",)),
            )
        )
        assert await pod.ask("db.Corp.Example") == ("NXDOMAIN", [])

        assert len(first.seen) == len(second.seen) == 1
        assert abs(first.seen[0].at - second.seen[0].at) < 0.05
        assert third.seen == []


async def test_each_upstream_is_reached_by_its_own_interface(pod):
    port = pod.upstream_port
    async with serving(A, port, says()), serving(B, port, says("@ 5 A 10.0.0.2")):
        pod.open(a_profile(cluster(A), service("x", B)))
        await pod.ask("a.example")

        assert {upstream for _, _, upstream in pod.opened} == {"", "cluster", "nsm-x"}


@pytest.mark.parametrize(
    "negative", [says(), says(rcode="NXDOMAIN"), says(rcode="SERVFAIL"), says(rcode="REFUSED")]
)
async def test_a_fast_negative_answer_never_beats_a_positive_one_50_ms_later(pod, negative):
    port = pod.upstream_port
    async with serving(A, port, negative), serving(B, port, says("@ 5 A 10.0.0.2", after=0.05)):
        pod.open(a_profile(cluster(A), service("x", B)))

        assert await pod.ask("a.example") == ("NOERROR", ["10.0.0.2"])


async def test_a_positive_answer_waits_for_nobody(pod):
    port = pod.upstream_port
    async with serving(A, port, says("@ 5 A 10.0.0.1")), serving(B, port, silent):
        pod.open(a_profile(cluster(A), service("x", B)))
        before = now()
        await pod.ask("a.example")

        assert now() - before < 1


async def test_an_existing_name_without_the_type_is_not_denied_by_those_who_do_not_know_it(pod):
    port = pod.upstream_port
    async with serving(A, port, says(rcode="NXDOMAIN", after=0.02)), serving(B, port, says()):
        pod.open(a_profile(cluster(A), service("x", B)))

        assert await pod.ask("a.example", "AAAA") == ("NOERROR", [])


async def test_ipv6_upstreams_and_clients_are_served(pod):
    async with serving("::1", pod.upstream_port, says("@ 5 AAAA 2001:db8::1")):
        pod.open(a_profile(cluster("::1")))

        reply = await ask(pod.port, a_query("a.example", "AAAA"), host="::1")
        assert outcome(reply) == ("NOERROR", ["2001:db8::1"])
        [reply] = await ask_tcp(pod.port, a_query("a.example", "AAAA"), host="::1")
        assert outcome(reply) == ("NOERROR", ["2001:db8::1"])


async def test_a_query_without_any_server_fails_at_once(pod):
    pod.open(a_profile(cluster("not-an-address")))
    before = now()

    assert await pod.ask("a.example") == ("SERVFAIL", [])
    assert now() - before < 1


# --- by the book -------------------------------------------------------------------------------------------


async def test_the_client_gets_its_own_id_and_spelling_back(pod):
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1")) as server:
        pod.open(a_profile(cluster(A)))
        query = a_query("wWw.ExAmple", number=0x1234)
        reply = await ask(pod.port, query)

        assert reply[:2] == query[:2]
        assert reply[12:].startswith(query[12:])
        assert (await server.seen_one()).raw[12:] == query[12:]


async def test_equal_queries_in_flight_are_asked_once(pod):
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1", after=0.1)) as server:
        pod.open(a_profile(cluster(A)))
        queries = [a_query("a.example", number=n) for n in range(1, 20)]
        replies = await asyncio.gather(*(ask(pod.port, query) for query in queries))

        assert [r[:2] for r in replies] == [q[:2] for q in queries]
        assert len(server.seen) == 1


async def test_options_for_the_next_hop_stay_here_and_others_pass(pod):
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1")) as server:
        pod.open(a_profile(cluster(A)))
        options = [dnslib.EDNSOption(10, b"cookies!"), dnslib.EDNSOption(8, b"\0\1\x18\0\1\2\3")]
        await ask(pod.port, a_query("a.example", edns=65000, options=options))
        [opt] = parsed(server.seen[0].raw).ar

        assert [option.code for option in opt.rdata] == [8]
        assert opt.edns_len == 4096


async def test_answers_to_something_else_are_ignored_and_the_right_one_still_wins(pod):
    def forges_first(query, _):
        client = server.seen[-1].client
        wrong = parsed(query.reply().pack())
        wrong.q.qname = "evil.example"
        wrong_id = bytearray(query.reply().pack())
        wrong_id[0] ^= 0xFF
        for packet in (bytes(wrong.pack()), bytes(wrong_id), b"\xff" * 7):
            server.send_datagram(packet, client)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(bytes(query.reply().pack()), client)
        return says("@ 5 A 10.0.0.1", after=0.05)(query, "udp")

    async with serving(A, pod.upstream_port, forges_first) as server:
        pod.open(a_profile(cluster(A)))

        assert await pod.ask("a.example") == ("NOERROR", ["10.0.0.1"])
        assert pod.figure("nsm_dns_trouble_total", what="reply to another question") == 1
        assert pod.figure("nsm_dns_trouble_total", what="unexpected packet of an upstream") == 2


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (b"\x12\x34\x28\0" + b"\0" * 8, 4),  # UPDATE
        (b"\x12\x34\x20\0" + b"\0" * 8, 4),  # NOTIFY
        (b"\x12\x34\0\0\0\2" + b"\0" * 6 + b"\1a\0\0\1\0\1", 1),  # two questions
        (b"\x12\x34\0\0\0\1" + b"\0" * 6 + b"\xc0\x0c\0\1\0\1", 1),  # compressed
        (b"\x12\x34\0\0\0\1" + b"\0" * 6 + b"\5ab", 1),  # cut off
        (b"\x12\x34\0\0\0\1" + b"\0" * 6 + b"\1a\0\0\xfc\0\1", 5),  # AXFR
    ],
)
async def test_what_is_not_asked_on_is_answered_by_its_code(pod, packet, code):
    pod.open(a_profile(cluster(DEAD)))

    reply = await ask(pod.port, packet)
    assert (reply[:2], reply[2] & 0x80, reply[3] & 0xF) == (packet[:2], 0x80, code)
    assert [reply] == await ask_tcp(pod.port, packet)


async def test_what_is_no_query_gets_no_reply(pod):
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1")) as server:
        pod.open(a_profile(cluster(A)))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", pod.port))
            client.setblocking(False)
            for nonsense in (b"", b"x", b"\0" * 11, b"\0\0\x80\0" + b"\0" * 20):
                client.send(nonsense)
            await pod.ask("a.example")  # comes after, and is answered

            with pytest.raises(BlockingIOError):
                client.recv(100)
        assert len(server.seen) == 1


async def test_no_bytes_from_anyone_stop_the_resolver(pod):
    """Clients over both transports and the upstream send changed and random bytes; then all is as before."""
    chance = random.Random(4711)

    def changed(packet: bytes) -> bytes:
        found = bytearray(packet)
        for _ in range(chance.randrange(4)):
            found[chance.randrange(len(found))] = chance.randrange(256)
        return bytes(
            found[: chance.randrange(len(found) + 1)] + chance.randbytes(chance.randrange(3))
        )

    def changes(query, _):
        reply = query.reply()
        reply.add_answer(*dnslib.RR.fromZone("a.example. 5 CNAME b.example."))
        reply.add_answer(*dnslib.RR.fromZone("b.example. 5 MX 1 c.example."))
        packed = bytes(reply.pack())
        return packed[:2] + changed(packed)[2:]

    async with serving(A, pod.upstream_port, changes) as server:
        pod.open(a_profile(cluster(A), service("x", A, search_domains=("corp.example",))))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", pod.port))
            for n in range(400):
                client.send(
                    changed(a_query(f"n{n}" if n % 2 else f"n{n}.a.example", "MX", edns=1232))
                )
                await asyncio.sleep(0)
        for n in range(60):
            with socket.create_connection(("127.0.0.1", pod.port)) as client:
                query = changed(a_query(f"t{n}.example", "MX"))
                client.sendall(len(query).to_bytes(2, "big") + query + chance.randbytes(n % 5))
            await asyncio.sleep(0)
        server.script = says("@ 5 A 10.0.0.1")

        assert await pod.ask("a.example") == ("NOERROR", ["10.0.0.1"])


# --- size and TCP ------------------------------------------------------------------------------------------

BIG = [f"@ 5 TXT {'x' * 200}{n}" for n in range(30)]


def cut_off_over_udp(query, transport):
    if transport == "udp":
        reply = query.reply()
        reply.header.tc = 1
        return bytes(reply.pack())
    return says(*BIG)(query, transport)


async def test_an_answer_too_large_for_the_client_sends_it_to_tcp(pod):
    async with serving(A, pod.upstream_port, says(*BIG[:6])):
        pod.open(a_profile(cluster(A)))
        small = parsed(await ask(pod.port, a_query("a.example", "TXT")))
        large = parsed(await ask(pod.port, a_query("a.example", "TXT", edns=4096)))

        assert (small.header.tc, len(small.rr)) == (1, 0)
        assert (large.header.tc, len(large.rr)) == (0, 6)


async def test_a_truncated_answer_is_asked_again_over_tcp_for_clients_of_tcp_only(pod):
    port = pod.upstream_port
    async with (
        serving(A, port, cut_off_over_udp) as first,
        serving(B, port, says(rcode="NXDOMAIN")),
    ):
        pod.open(a_profile(cluster(A), service("x", B)))
        over_udp = parsed(await ask(pod.port, a_query("a.example", "TXT")))
        assert (over_udp.header.tc, [s.transport for s in first.seen]) == (1, ["udp"])

        [over_tcp] = await ask_tcp(pod.port, a_query("a.example", "TXT"))
        assert (parsed(over_tcp).header.tc, len(parsed(over_tcp).rr)) == (0, 30)


async def test_a_server_that_fails_over_tcp_costs_only_its_own_answer(pod):
    port = pod.upstream_port

    def cut_off(query, transport):
        return cut_off_over_udp(query, transport) if transport == "udp" else b"\0" * 12

    async with serving(A, port, cut_off), serving(B, port, says(rcode="NXDOMAIN", after=0.1)):
        pod.open(a_profile(cluster(A), service("x", B)))
        [reply] = await ask_tcp(pod.port, a_query("a.example", "TXT"))

        assert outcome(reply) == ("NXDOMAIN", [])


async def test_queries_of_one_connection_are_answered_as_the_answers_come(pod):
    def slow_for_slow(query, _):
        slow = str(query.q.qname).startswith("slow")
        return says("@ 5 A 10.0.0.1", after=0.2 if slow else 0.0)(query, "udp")

    async with serving(A, pod.upstream_port, slow_for_slow):
        pod.open(a_profile(cluster(A)))
        replies = await ask_tcp(pod.port, a_query("slow.example"), a_query("fast.example"))

        assert [str(parsed(reply).q.qname) for reply in replies] == [
            "fast.example.",
            "slow.example.",
        ]


async def test_more_queries_than_one_connection_may_have_open_are_all_answered_in_the_end():
    async with (
        a_pod(Limits(tcp_pipelined=4)) as pod,
        serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1", after=0.01)),
    ):
        pod.open(a_profile(cluster(A)))
        queries = [a_query(f"n{n}.example", number=n + 1) for n in range(50)]
        replies = await ask_tcp(pod.port, *queries)

        assert {reply[:2] for reply in replies} == {query[:2] for query in queries}


async def test_a_client_that_only_stopped_writing_gets_its_answers(pod):
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1", after=0.1)):
        pod.open(a_profile(cluster(A)))
        reader, writer = await asyncio.open_connection("127.0.0.1", pod.port)
        query = a_query("a.example")
        writer.write(len(query).to_bytes(2, "big") + query)
        writer.write_eof()
        async with asyncio.timeout(20):
            whole = await reader.read()  # to the end: the resolver closes when all is said
        writer.close()

        assert outcome(whole[2:]) == ("NOERROR", ["10.0.0.1"])


async def test_idle_connections_are_closed_and_make_room_before():
    async with a_pod(Limits(tcp_connections=2, tcp_idle_seconds=0.5)) as pod:
        pod.open(a_profile(cluster(DEAD)))
        clients = [await asyncio.open_connection("127.0.0.1", pod.port) for _ in range(3)]
        async with asyncio.timeout(20):
            ends = [await reader.read() for reader, _ in clients]
        for _, writer in clients:
            writer.close()

        assert ends == [b"", b"", b""]
        assert pod.figure("nsm_dns_trouble_total", what="too many connections") == 1


# --- servers that do not answer ----------------------------------------------------------------------------


async def test_a_lost_packet_is_sent_again(pod):
    lost: list[Any] = []

    def first_is_lost(query, _):
        if not lost:
            lost.append(query)
            return None
        return says("@ 5 A 10.0.0.1")(query, "udp")

    async with serving(A, pod.upstream_port, first_is_lost) as server:
        pod.open(a_profile(cluster(A)))

        assert await pod.ask("a.example") == ("NOERROR", ["10.0.0.1"])
        assert server.seen[0].raw[:2] != server.seen[1].raw[:2]


async def test_the_answer_to_the_first_packet_counts_after_the_second_was_sent(pod):
    def slow_then_silent(query, _):
        return says("@ 5 A 10.0.0.1", after=0.6)(query, "udp") if len(server.seen) == 1 else None

    async with serving(A, pod.upstream_port, slow_then_silent) as server:
        pod.open(a_profile(cluster(A)))

        assert await pod.ask("a.example") == ("NOERROR", ["10.0.0.1"])


async def test_silence_of_all_ends_in_a_failure_within_the_budget(pod):
    async with serving(A, pod.upstream_port, silent):
        pod.open(a_profile(cluster(A)))
        before = now()

        assert await pod.ask("a.example") == ("SERVFAIL", [])
        assert 2.5 < now() - before < 5.5  # a stub waits five


async def test_the_first_answer_of_anybody_is_waited_for_as_long_as_its_way_back_exists(pod):
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1", after=2.5)) as server:
        pod.open(a_profile(cluster(A)))

        assert await pod.ask("a.example") == ("NOERROR", ["10.0.0.1"])
        assert server.names.count("a.example.") == 3  # sent again twice


async def test_a_slow_name_of_one_label_is_still_waited_for_while_it_is_searched_in_vain(pod):
    port = pod.upstream_port
    corp = service("x", B, domains=("corp.example",), search_domains=("corp.example",))
    async with (
        serving(A, port, says("@ 5 A 10.0.0.1", after=2.4)),
        serving(B, port, says(rcode="NXDOMAIN")) as second,
    ):
        pod.open(a_profile(cluster(A), corp))

        assert await pod.ask("db") == ("NOERROR", ["10.0.0.1"])
        assert second.names == ["db.corp.example."]


async def test_a_search_ends_with_the_query_it_is_for(pod):
    port = pod.upstream_port
    corp = service("x", B, domains=("corp.example",), search_domains=("corp.example",))
    async with (
        serving(A, port, says(rcode="NXDOMAIN", after=1.5)),
        serving(B, port, silent),
    ):
        pod.open(a_profile(cluster(A), corp))
        before = now()

        assert await pod.ask("db") == ("NXDOMAIN", [])
        assert now() - before < 4  # a search that began then would end after 4.3


async def test_a_search_that_nobody_can_be_asked_for_ends_at_once(pod):
    port = pod.upstream_port
    gone = service("x", domains=("corp.example",), search_domains=("corp.example",))
    async with serving(A, port, says(rcode="NXDOMAIN")):
        pod.open(a_profile(cluster(A), gone))
        before = now()

        assert await pod.ask("db") == ("NXDOMAIN", [])
        assert now() - before < 1


async def test_names_that_a_server_cannot_finish_in_time_cost_it_none_of_its_others(pod):
    """Three lookups of a burst stay unanswered; the same server's next answer still beats a quick denial."""

    def knows_some(query: Any, transport: str) -> Any:
        if "dead" in str(query.q.qname):
            return None
        return says("@ 5 A 10.0.0.1", after=0.08)(query, transport)

    port = pod.upstream_port
    async with serving(A, port, knows_some), serving(B, port, says(rcode="NXDOMAIN")):
        pod.open(a_profile(cluster(A), service("x", B)))
        await asyncio.gather(*(pod.ask(f"www{n}.dead.example") for n in range(3)))

        assert await pod.ask("cold.example") == ("NOERROR", ["10.0.0.1"])


async def test_an_answer_too_late_for_its_query_heals_and_whoever_waits_goes_on_waiting(pod):
    port = pod.upstream_port
    async with (
        serving(A, port, says("@ 5 A 10.0.0.1", after=0.3)) as first,
        serving(B, port, says(rcode="NXDOMAIN")),
    ):
        pod.open(a_profile(cluster(A), service("x", B)))
        await pod.ask("warm.example")
        server = pod.answerer.servers[0]
        server.health.srtt_seconds = 0.1  # a grace of 0.2 s
        server.health.unreachable()
        server._probing = True  # or it heals by that
        query = pod.ask("cold.example")
        first.came.clear()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(query)
            await first.came.wait()
            nobodys = parsed(first.seen[-1].raw).reply()
            nobodys.header.id ^= 1
            first.send_datagram(bytes(nobodys.pack()), first.seen[-1].client)

        assert waiting.result() == ("NOERROR", ["10.0.0.1"])


async def test_a_dead_server_holds_up_the_first_three_misses_only_and_heals(pod):
    port = pod.upstream_port
    async with serving(A, port, says(rcode="NXDOMAIN")), serving(B, port, silent) as second:
        pod.open(a_profile(cluster(A), service("x", B)))
        misses = await asyncio.gather(*(pod.ask(f"n{n}.example") for n in range(3)))
        assert misses == [("NXDOMAIN", [])] * 3
        await pod.ask("n3.example")  # ends when the probe does

        before = now()
        assert await pod.ask("miss.example") == ("NXDOMAIN", [])
        assert now() - before < 1
        assert pod.figure("nsm_dns_upstreams", upstream="service", state="dead") == 1

        second.script = says("@ 5 A 10.0.0.2")
        assert await pod.ask("a.example") == ("NOERROR", ["10.0.0.2"])  # asked although suspect
        second.script = says("@ 5 A 10.0.0.2", after=0.3)
        assert await pod.ask("b.example") == ("NOERROR", ["10.0.0.2"])  # and waited for again


async def test_a_dead_server_adds_its_grace_to_later_misses_and_nothing_more(pod):
    """By medians: what a machine that stumbles adds to a few of them is not its doing."""

    async def median_of(kind: str) -> float:
        took = []
        for n in range(31):
            began = now()
            assert await pod.ask(f"{kind}{n}.example") == ("NXDOMAIN", [])
            took.append(now() - began)
        return statistics.median(took)

    port, denies = pod.upstream_port, says(rcode="NXDOMAIN")
    async with serving(A, port, denies), serving(B, port, denies) as second:
        pod.open(a_profile(cluster(A), service("x", B)))
        healthy = await median_of("healthy")
        second.script = silent
        await asyncio.gather(*(pod.ask(f"first{n}.example") for n in range(3)))
        await pod.ask("fourth.example")  # ends when the probe does

        # Each of the first three took two seconds; what it is exactly tells `bench.dns`.
        assert await median_of("dead") < healthy + 1


async def test_a_server_that_is_back_is_found_out_without_a_false_denial(pod):
    """It is slower than the grace of a suspect: its first answers would lose."""
    port = pod.upstream_port
    async with serving(A, port, says(rcode="NXDOMAIN")), serving(B, port, silent) as second:
        pod.open(a_profile(cluster(A), service("x", B)))
        await asyncio.gather(*(pod.ask(f"n{n}.example") for n in range(4)))
        [server] = [s for s in pod.answerer.servers if s.where.address == B]
        async with asyncio.timeout(20):
            while server.health.state is not State.DEAD:
                await asyncio.sleep(0.01)
        second.script = says("@ 5 A 10.0.0.2", after=0.3)
        async with asyncio.timeout(2):
            while server.health.suspect:
                await asyncio.sleep(0.01)

        found = await asyncio.gather(*(pod.ask(f"a{n}.example") for n in range(20)))
        assert found == [("NOERROR", ["10.0.0.2"])] * 20


async def test_who_answered_is_not_called_silent_and_owes_nothing(pod):
    async with serving(A, pod.upstream_port, says(rcode="NXDOMAIN")):
        pod.open(a_profile(cluster(A)))
        for n in range(5):
            await pod.ask(f"n{n}.example")
        assert [lane.pending for lane in pod.server.ports.lanes()] == [{}] * 4
        async with asyncio.timeout(20):
            while len(pod.engine.shared.timers):
                await asyncio.sleep(0.05)

        assert not pod.server.health.suspect


async def test_a_refused_port_does_not_hold_up_misses(pod):
    async with serving(A, pod.upstream_port, says(rcode="NXDOMAIN")):
        pod.open(a_profile(cluster(A), service("x", DEAD)))
        before = now()

        assert await pod.ask("a.example") == ("NXDOMAIN", [])
        assert now() - before < 1


async def test_an_interface_that_is_not_there_yet_costs_nothing_and_is_used_once_it_is(pod):
    port = pod.upstream_port
    async with serving(A, port, says(rcode="NXDOMAIN")), serving(B, port, says("@ 5 A 10.0.0.2")):
        pod.refuse = lambda upstream: upstream == "nsm-x"
        pod.open(a_profile(cluster(A), service("x", B)))
        assert await pod.ask("a.example") == ("NXDOMAIN", [])

        pod.refuse = lambda _: False
        async with asyncio.timeout(20):
            while await pod.ask("a.example") != ("NOERROR", ["10.0.0.2"]):
                pass


@pytest.mark.parametrize("error", [errno.EMSGSIZE, errno.EPERM, errno.ENOBUFS])
async def test_a_packet_that_cannot_be_sent_harms_no_query_beside_it(pod, error):
    class Narrow(socket.socket):
        def send(self, data: Any, flags: int = 0) -> int:
            if b"large" in data:
                raise OSError(error, "not this one")
            return super().send(data, flags)

    def opener(family: int, kind: int, *, upstream: str) -> socket.socket:
        pod.opened.append((family, kind, upstream))
        return Narrow(family, kind)

    pod._opener = opener
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1", after=0.1)) as server:
        pod.open(a_profile(cluster(A)))
        async with asyncio.TaskGroup() as tasks:
            beside = tasks.create_task(pod.ask("a.example"))
            await server.seen_one()
            before = now()
            large = tasks.create_task(pod.ask("large.example"))
        assert beside.result() == ("NOERROR", ["10.0.0.1"])
        assert large.result() == ("SERVFAIL", [])
        assert now() - before < 5.5
        assert len(server.seen) == 1


async def test_sockets_that_lost_their_way_are_made_anew_for_the_same_query(pod, monkeypatch):
    """At once: a retransmission would come much later than the asker goes away."""
    monkeypatch.setattr(timers, "AGES", (20.0, 21.0, 22.0, 23.0, 24.0))
    monkeypatch.setattr(timers, "_FIRST_AGE", 20.0)
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1")):
        pod.open(a_profile(cluster(A)))
        await pod.ask("a.example")
        server = pod.ports(pod.server)
        for port in server._open_ones:
            port.sock.shutdown(socket.SHUT_RDWR)  # sending fails, as on an interface that is gone
        server._opened_at = now()

        assert await pod.ask("b.example") == ("NOERROR", ["10.0.0.1"])


# --- the loop guard ----------------------------------------------------------------------------------------


async def test_a_query_of_ours_that_comes_back_is_dropped_and_told(pod):
    """The upstream is the resolver itself: what a capture of our own packets looks like."""
    pod.upstream_port = 0
    pod.open(a_profile(cluster("127.0.0.1")))
    pod.answerer._outlet.upstream_port = pod.port
    before = now()

    assert await pod.ask("a.example") == ("SERVFAIL", [])
    assert now() - before < 5.5
    assert pod.loops == 5  # the query and its retransmissions, a probe and its; no storm


async def test_a_connection_of_ours_that_comes_back_is_closed_and_told(pod):
    async with serving(A, pod.upstream_port, cut_off_over_udp) as server:
        pod.open(a_profile(cluster(A)))

        def redirected(query, _):
            pod.answerer._outlet.upstream_port = pod.port
            pod.server.where = Where("127.0.0.1", "cluster")
            return cut_off_over_udp(query, "udp")

        server.script = redirected
        [reply] = await ask_tcp(pod.port, a_query("a.example", "TXT"))

        assert outcome(reply) == ("SERVFAIL", [])
        assert pod.loops == 1


async def test_a_clients_connection_from_a_port_of_the_same_number_is_served(pod):
    """Towards another destination the kernel gives a TCP port out twice: the number alone proves nothing."""

    async def asks(client: socket.socket, number: int) -> bytes:
        loop = asyncio.get_running_loop()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setblocking(False)
        client.bind(("127.0.0.8", number))
        await loop.sock_connect(client, ("127.0.0.1", pod.port))
        query = a_query("b.example")
        await loop.sock_sendall(client, len(query).to_bytes(2, "big") + query)
        async with asyncio.timeout(20):
            return (await loop.sock_recv(client, 65535))[2:]

    def hangs_over_tcp(query: Any, transport: str) -> Any:
        if str(query.q.qname) == "b.example.":
            return says("@ 5 A 10.0.0.1")(query, transport)
        return cut_off_over_udp(query, transport) if transport == "udp" else None

    async with serving(A, pod.upstream_port, hangs_over_tcp) as server:
        pod.open(a_profile(cluster(A)))
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(ask_tcp(pod.port, a_query("a.example", "TXT")))
            async with asyncio.timeout(20):
                while len(server.seen) < 2:
                    server.came.clear()
                    await server.came.wait()
            [(_, number)] = pod.answerer._outlet.stream_ports
            with socket.socket() as client:
                reply = await asks(client, number)

        assert outcome(reply) == ("NOERROR", ["10.0.0.1"])
        assert pod.loops == 0
        assert outcome(first.result()[0]) == ("SERVFAIL", [])


async def test_an_equal_packet_from_another_port_is_a_duplicate(pod):
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1", after=0.1)) as server:
        pod.open(a_profile(cluster(A)))
        query = a_query("a.example")
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(ask(pod.port, query))
            copied = (await server.seen_one()).raw
            second = tasks.create_task(ask(pod.port, copied))

        assert [outcome(task.result())[1] for task in (first, second)] == [["10.0.0.1"]] * 2
        assert (pod.loops, len(server.seen)) == (0, 1)


# --- search domains ----------------------------------------------------------------------------------------


def knows(*names: str) -> Callable[[Any, str], Any]:
    """10.0.0.N for the N-th of the names; no others exist."""

    def script(query: Any, transport: str) -> Any:
        name = str(query.q.qname)
        if name in names:
            return says(f"@ 5 A 10.0.0.{names.index(name) + 1}")(query, transport)
        return says(rcode="NXDOMAIN")(query, transport)

    return script


async def test_a_single_label_that_nobody_knows_is_searched_and_answered_as_an_alias(pod):
    port = pod.upstream_port
    corp = service("x", B, domains=("corp.example",), search_domains=("corp.example",))
    async with (
        serving(A, port, says(rcode="REFUSED")) as first,
        serving(B, port, knows("db.corp.example.")) as second,
    ):
        pod.open(a_profile(cluster(A), corp))
        query = a_query("DB", edns=1232)
        reply = await ask(pod.port, query)

        assert reply[12:].startswith(query[12:20])
        assert (first.names, second.names) == (["DB."], ["db.corp.example."])
        assert outcome(reply) == ("NOERROR", ["db.corp.example.", "10.0.0.1"])
        assert [rr.rtype for rr in parsed(reply).ar] == [dnslib.QTYPE.OPT]
        assert parsed(await ask(pod.port, a_query("db"))).ar == []
        assert [outcome(r) for r in await ask_tcp(pod.port, query)] == [outcome(reply)]


async def test_a_known_or_a_longer_name_is_never_searched(pod):
    port = pod.upstream_port
    corp = service("x", B, domains=("corp.example",), search_domains=("corp.example",))
    async with (
        serving(A, port, knows("db.")) as first,
        serving(B, port, knows("db.corp.example.", "db.ns.corp.example.")) as second,
    ):
        pod.open(a_profile(cluster(A), corp))

        assert await pod.ask("db") == ("NOERROR", ["10.0.0.1"])
        assert await pod.ask("db.ns") == ("NXDOMAIN", [])
        assert (first.names, second.names) == (["db.", "db.ns."], [])


async def test_a_name_that_is_an_alias_is_known_and_not_searched(pod):
    port = pod.upstream_port
    corp = service("x", B, domains=("corp.example",), search_domains=("corp.example",))
    async with (
        serving(A, port, says("@ 5 CNAME b.example.")),
        serving(B, port, knows("db.corp.example.")) as second,
    ):
        pod.open(a_profile(cluster(A), corp))

        assert await pod.ask("db") == ("NOERROR", ["b.example."])
        assert second.names == []


async def test_a_search_in_vain_gives_the_answer_for_the_name_as_it_is(pod):
    port = pod.upstream_port
    outside = service("y", C, domains=("other.example",), search_domains=("corp.example",))
    corp = service("x", B, domains=("corp.example",), search_domains=("corp.example",))
    async with (
        serving(A, port, says(rcode="NXDOMAIN")),
        serving(B, port, says(rcode="NXDOMAIN")) as second,
        serving(C, port, says("@ 5 A 10.0.0.3")) as third,
    ):
        pod.open(a_profile(cluster(A), outside, corp))

        assert await pod.ask("db") == ("NXDOMAIN", [])
        assert (second.names, third.names) == (["db.corp.example."], [])


@pytest.mark.parametrize("as_is", ["NXDOMAIN", "REFUSED", "NOERROR"])
async def test_a_searched_name_without_the_type_is_not_denied(pod, as_is):
    """Who asks for both kinds of addresses at once (musl) takes one denial for that of the name."""
    port = pod.upstream_port
    found = service("x", B, domains=("example",), search_domains=("a.example", "b.example"))
    async with (
        serving(A, port, says(rcode=as_is)),
        serving(B, port, knows("db.b.example.")) as second,
    ):
        pod.open(a_profile(cluster(A), found))

        assert await pod.ask("db") == ("NOERROR", ["db.b.example.", "10.0.0.1"])
        second.script = says()
        expected = [] if as_is == "NOERROR" else ["db.a.example."]
        assert await pod.ask("db", "AAAA") == ("NOERROR", expected)


async def test_the_first_search_domain_wins_also_when_it_is_slower(pod):
    def first_is_slow(query, _):
        first = "a.example" in str(query.q.qname)
        return says("@ 5 A 10.0.0." + "12"[not first], after=0.1 * first)(query, "udp")

    port = pod.upstream_port
    found = service("x", B, domains=("example",), search_domains=("a.example", "b.example"))
    async with serving(A, port, says(rcode="NXDOMAIN")), serving(B, port, first_is_slow):
        pod.open(a_profile(cluster(A), found))

        assert await pod.ask("db") == ("NOERROR", ["db.a.example.", "10.0.0.1"])


# --- life ------------------------------------------------------------------------------------------------


async def test_a_pod_without_ipv6_is_served_over_ipv4(pod):
    def without_ipv6(family: int, kind: int, *, upstream: str) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6 here")
        return socket.socket(family, kind)

    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1")):
        pod._opener = without_ipv6
        pod.open(a_profile(cluster(A, "2001:db8::1")))

        assert await pod.ask("a.example") == ("NOERROR", ["10.0.0.1"])


async def test_another_profile_holds_from_the_next_query_on_and_disturbs_none(pod):
    port = pod.upstream_port
    async with (
        serving(A, port, says("@ 5 A 10.0.0.1", after=0.2)) as first,
        serving(B, port, says("@ 5 A 10.0.0.2")) as second,
    ):
        pod.open(a_profile(cluster(A)))
        async with asyncio.TaskGroup() as tasks:
            before = tasks.create_task(pod.ask("a.example"))
            await first.seen_one()
            pod.answerer.replace(a_profile(cluster(A), service("x", B)))
            assert await pod.ask("b.example") == ("NOERROR", ["10.0.0.2"])
        assert before.result() == ("NOERROR", ["10.0.0.1"])

        pod.answerer.replace(a_profile(cluster(A)))
        assert await pod.ask("c.example") == ("NOERROR", ["10.0.0.1"])
        assert second.names == ["b.example."]


async def test_a_query_whose_only_server_was_removed_ends(pod):
    async with serving(A, pod.upstream_port, silent) as server:
        pod.open(a_profile(cluster(A)))
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(pod.ask("a.example"))
            await server.seen_one()
            before = now()
            pod.answerer.replace(a_profile())
        assert waiting.result() == ("SERVFAIL", [])
        assert now() - before < 1


def _descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_closing_leaves_no_descriptor_and_no_port_behind():
    held = _descriptors()
    async with a_pod() as pod, serving(A, pod.upstream_port, cut_off_over_udp) as server:
        pod.open(a_profile(cluster(A), service("x", DEAD)))
        client = await asyncio.open_connection("127.0.0.1", pod.port)
        await ask_tcp(pod.port, a_query("a.example", "TXT"))
        server.script = silent
        query = a_query("b.example")
        client[1].write(len(query).to_bytes(2, "big") + query)
        server.came.clear()
        await server.came.wait()
        pod.answerer.close()
        pod.answerer.close()
        client[1].close()
        with contextlib.suppress(OSError):
            await client[1].wait_closed()
        with socket.socket() as again, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as too:
            again.bind(("127.0.0.1", pod.port))
            too.bind(("127.0.0.1", pod.port))
    await asyncio.sleep(0.05)

    assert _descriptors() <= held


async def test_unused_sockets_are_closed_and_new_ones_opened(pod, monkeypatch):
    monkeypatch.setattr(upstreams, "_IDLE_SECONDS", 0.2)
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1")):
        pod.open(a_profile(cluster(A)))
        await pod.ask("a.example")
        [port] = pod.ports(pod.server)._open_ones
        async with asyncio.timeout(20):
            while port.sock.fileno() >= 0:
                await asyncio.sleep(0.05)

        assert not any(pod.answerer._outlet.datagram_ports.values())
        assert await pod.ask("b.example") == ("NOERROR", ["10.0.0.1"])


async def test_ports_change_while_they_are_used(pod, monkeypatch):
    monkeypatch.setattr(upstreams, "_REPLACE_SECONDS", 0.0)
    monkeypatch.setattr(upstreams, "_RETIRED_SECONDS", 0.0)
    async with serving(A, pod.upstream_port, says("@ 5 A 10.0.0.1")) as server:
        pod.open(a_profile(cluster(A)))
        for n in range(40):
            await pod.ask(f"n{n}.example")
        asked = pod.ports(pod.server)
        assert len({seen.client for seen in server.seen}) > 20
        async with asyncio.timeout(20):
            while asked._retired:
                await asyncio.sleep(0.05)

        held = pod.answerer._outlet.datagram_ports[socket.AF_INET]
        assert len(held) == len(asked._open_ones) == 4


async def test_a_pod_that_asks_too_much_is_not_served_more_and_harms_nobody():
    async with (
        a_pod(Limits(in_flight=5)) as pod,
        serving(A, pod.upstream_port, silent) as server,
    ):
        pod.open(a_profile(cluster(A)))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", pod.port))
            for n in range(20):
                client.send(a_query(f"n{n}.example"))
            assert await pod.ask("n1.example") == ("SERVFAIL", [])

        assert len({*server.names} - {"id.server."}) == 5


async def test_a_query_of_many_bytes_is_a_format_error_over_both_transports(pod):
    pod.open(a_profile(cluster(DEAD)))
    large = a_query("a.example") + bytes(4096)

    assert (await ask(pod.port, large))[3] & 0xF == dnslib.RCODE.FORMERR
    [reply] = await ask_tcp(pod.port, large)
    assert reply[3] & 0xF == dnslib.RCODE.FORMERR


async def test_what_was_answered_holds_no_bytes_and_large_packets_are_not_remembered(pod):
    port = pod.upstream_port
    async with serving(A, port, says("@ 5 A 10.0.0.1")), serving(B, port, silent):
        pod.open(a_profile(cluster(A), service("x", B)))
        await pod.ask("a.example")
        assert len(pod.engine.shared.readings) == 1
        padded = a_query("b.example", edns=1232, options=[dnslib.EDNSOption(8, b"x" * 600)])
        assert outcome(await ask(pod.port, padded)) == ("NOERROR", ["10.0.0.1"])
        assert len(pod.engine.shared.readings) == 1

        [silent_one] = [s for s in pod.answerer.servers if s.where.address == B]
        kept = [f for lane in silent_one.ports.lanes() for f, _, _ in lane.pending.values()]
        assert [(len(f.query.sent) < 600, f.best, f.key, f.waiters) for f in kept] == [
            (True, b"", b"", [])
        ] * 2
        [large] = [flight for flight in kept if flight.sent_hash]
        assert large.has_sent(read_sent(padded)) and not large.has_sent(b"another")


def read_sent(packet: bytes) -> bytes:
    found = queries.parse(packet)
    assert isinstance(found, queries.Query)
    return found.sent


async def test_a_connection_to_an_upstream_ends_with_the_answer_of_another_and_at_the_latest_with_the_pod(
    pod,
):
    def hangs_over_tcp(query: Any, transport: str) -> Any:
        return cut_off_over_udp(query, "udp") if transport == "udp" else None

    opened: list[socket.socket] = []

    def opener(family: int, kind: int, *, upstream: str) -> socket.socket:
        opened.append(socket.socket(family, kind))
        return opened[-1]

    port = pod.upstream_port
    pod._opener = opener
    async with serving(A, port, cut_off_over_udp), serving(B, port, hangs_over_tcp):
        pod.open(a_profile(cluster(A), service("x", B)))
        listeners = len(opened)
        [reply] = await ask_tcp(pod.port, a_query("a.example", "TXT"))
        assert len(parsed(reply).rr) == 30
        streams = [
            s for s in opened[listeners:] if s.fileno() >= 0 and s.type == socket.SOCK_STREAM
        ]
        assert streams == []

        pod.answerer.close()
        assert [s for s in opened if s.fileno() >= 0] == []


async def test_a_fault_in_the_sweep_of_one_pod_stops_no_others(pod):
    pod.open(a_profile(cluster(A)))
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    swept = asyncio.Event()

    class Broken:
        def sweep(self, now: float) -> bool:
            raise RuntimeError("broken")

    class Sound:
        rounds = 0

        def sweep(self, now: float) -> bool:
            self.rounds += 1
            if self.rounds == 2:
                swept.set()
            return True

    pod.engine.keep_swept(Broken())
    pod.engine.keep_swept(Sound())
    async with asyncio.timeout(20):
        await swept.wait()

    assert len(faults) == 2
