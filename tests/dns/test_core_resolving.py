"""The resolver over time, without a clock: dead and returning servers, lost packets, limits, what is kept."""

import itertools
import statistics

import pytest

from services.dns.core import servers
from services.dns.core.health import State
from services.dns.core.ranking import Rank
from services.dns.model import Limits
from tests.dns.behaviours import reply_of
from tests.dns.simulation import Sent, Simulation
from tests.dns.upstreams import a_profile, a_query, cluster, outcome, service

CLUSTER, CORP = "10.96.0.10", "172.16.1.1"
PROFILE = a_profile(cluster(CLUSTER), service("corp", CORP))
DELAY = 0.01


class Story:
    """A cluster that denies every name, and a service that knows `known.*`, when it is alive."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        self.alive = True
        self.delay = DELAY
        self.simulation = Simulation(PROFILE, self._act, limits=limits)

    def _act(self, sent: Sent) -> None:
        if sent.address == CLUSTER:
            sent.answer(DELAY, reply_of("nxdomain", sent.packet))
        elif self.alive:
            known = b"\5known" in sent.packet
            sent.answer(self.delay, reply_of("positive" if known else "nxdomain", sent.packet))

    def ask(self, name: str) -> tuple[str, float]:
        """The code of the answer, and how long it took."""
        simulation = self.simulation
        before, began = len(simulation.answers), simulation.now
        simulation.ask(a_query(name))
        simulation.run(9, until=lambda: len(simulation.answers) > before)
        answered = simulation.answers[-1]
        return outcome(answered.message)[0], answered.at - began

    def misses(self, count: int) -> list[float]:
        return [self.ask(f"n{n}-{self.simulation.now}.example")[1] for n in range(count)]


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[-1]


def test_after_three_misses_a_dead_server_costs_no_more_than_60_ms():
    story = Story()
    healthy = p99(story.misses(200))
    story.alive = False
    first = story.misses(3)
    later = story.misses(500)

    assert max(first) <= 2.0 + DELAY
    assert p99(later) <= healthy + 0.06
    assert story.simulation.server(CORP).health.state is State.DEAD


def test_a_dead_server_under_many_queries_at_once_is_found_out_within_two_seconds():
    story = Story()
    story.misses(5)
    story.alive = False
    for n in range(300):
        story.simulation.ask(a_query(f"m{n}.example"))
        story.simulation.run(0.02)
    story.simulation.run(3)
    took = [each.at for each in story.simulation.answers[5:]]

    assert len(took) == 300
    assert all(later - earlier < 2.1 for earlier, later in itertools.pairwise(took))
    assert p99(story.misses(100)) < DELAY + 0.06


@pytest.mark.parametrize("delay", [0.01, 0.3])
def test_a_returning_server_is_used_again_within_two_seconds_without_a_false_denial(delay):
    """A slow one would lose against the cluster's quick denial as long as it is suspect."""
    story = Story()
    story.delay = delay
    story.misses(5)
    story.alive = False
    story.misses(20)
    assert story.simulation.server(CORP).health.suspect
    story.alive = True
    back = story.simulation.now
    while story.simulation.now < back + 2:
        story.misses(1)
        story.simulation.run(0.1)

    assert story.simulation.server(CORP).health.state is State.WELL
    for n in range(50):
        assert story.ask(f"known.{n}.example")[0] == "NOERROR"


def test_a_server_that_answers_probes_only_is_waited_for_at_first_and_then_no_more():
    """As a forwarder does whose own servers are gone."""
    story = Story()

    def act(sent: Sent) -> None:
        if sent.address == CLUSTER:
            sent.answer(DELAY, reply_of("nxdomain", sent.packet))
        elif b"\6server" in sent.packet:
            sent.answer(DELAY, reply_of("refused", sent.packet))

    story.simulation.script = act
    assert min(story.misses(4)) > 1.9
    story.misses(1)
    assert story.simulation.server(CORP).health.state is State.MUTE
    assert max(story.misses(20)) < 0.1


def test_a_server_that_is_not_asked_is_not_probed_for_ever():
    story = Story()
    story.alive = False
    story.misses(5)
    story.simulation.run(60)
    packets: list[Sent] = []
    story.simulation.script = packets.append
    story.simulation.run(60)

    assert packets == []
    assert not len(story.simulation.shared.timers)


def test_a_server_that_cannot_be_sent_to_costs_its_grace_only():
    story = Story()
    story.simulation.dead.add(CORP)

    assert max(story.misses(10)) <= 0.05 + DELAY
    assert story.simulation.server(CORP).health.state is State.UNREACHABLE


def test_what_was_asked_is_forgotten_a_while_after_the_answer():
    story = Story()
    story.alive = False
    story.misses(2)
    server = story.simulation.server(CORP)
    assert any(lane.pending for lane in server.ports.lanes())
    story.simulation.run(30)
    story.simulation.resolver.sweep(story.simulation.now)

    assert not any(lane.pending for lane in server.ports.lanes())


def test_what_a_silent_server_was_asked_is_bounded_and_the_newest_still_counts(monkeypatch):
    """Another one answers at once, so that nothing is in flight: else the IDs of its sockets would run out."""
    monkeypatch.setattr(servers, "_MOST_PENDING", 100)
    story = Story()

    def act(sent: Sent) -> None:
        if sent.address == CLUSTER:
            sent.answer(0.0001, reply_of("positive", sent.packet))
        elif b"\4last" in sent.packet:
            sent.answer(0.5, reply_of("positive", sent.packet))

    story.simulation.script = act
    for n in range(2000):
        assert story.ask(f"n{n}.example")[0] == "NOERROR"
    server = story.simulation.server(CORP)
    assert all(len(lane.pending) <= 101 for lane in server.ports.lanes())
    assert server.said is None

    story.ask("last.example")
    story.simulation.run(1)
    assert server.health.heard_at == pytest.approx(story.simulation.now, abs=1)


def test_more_queries_than_may_fly_get_no_answer_and_later_ones_do():
    story = Story(limits=Limits(in_flight=3))
    taken = [story.simulation.ask(a_query(f"n{n}.example")) for n in range(5)]
    story.simulation.run(5)

    assert taken == [True, True, True, False, False]
    assert len(story.simulation.answers) == 3
    assert story.simulation.tally.trouble == {"too many queries in flight": 2}
    assert story.ask("later.example")[0] == "NXDOMAIN"


def test_more_clients_of_one_query_than_may_wait_are_not_served():
    story = Story(limits=Limits(waiters=2))
    taken = [story.simulation.ask(a_query("a.example", number=n)) for n in (1, 2, 3)]
    story.simulation.run(5)

    assert taken == [True, True, False]
    assert [each.message[:2] for each in story.simulation.answers] == [b"\0\1", b"\0\2"]
    assert story.simulation.tally.datagrams[Rank.NXDOMAIN] == 2


def test_the_figures_tell_how_long_queries_took():
    story = Story()
    story.misses(4)

    assert sum(story.simulation.tally.seconds) == 4
    assert story.simulation.tally.seconds_sum == pytest.approx(4 * DELAY)
