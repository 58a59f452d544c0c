"""Who would be asked for a name, and why, in words that fit what really happens."""

import pytest

from services.dns.core.explaining import Asked, explain
from tests.dns.behaviours import reply_of
from tests.dns.simulation import Sent, Simulation
from tests.dns.upstreams import a_profile, a_query, cluster, parsed, service

PROFILE = a_profile(
    cluster("10.96.0.10"),
    service("corp", "172.16.1.1", domains=("corp.example",), search_domains=("corp.example",)),
    service("all", "172.16.2.1"),
)


def answer(sent: Sent) -> None:
    if sent.address != "172.16.2.1":
        known = sent.address == "172.16.1.1"
        sent.answer(0.02, reply_of("positive" if known else "nxdomain", sent.packet))


def explained(name: str, simulation: Simulation) -> dict[str, Asked]:
    found = explain(PROFILE, simulation.resolver.plans, name, simulation.now)
    return {each.upstream: each for each in found.servers}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("db.corp.example", {"cluster", "corp", "all"}),
        ("CORP.example.", {"cluster", "corp", "all"}),
        ("notcorp.example", {"cluster", "all"}),
        ("a.default.svc.cluster.local", {"cluster"}),
        ("4.3.2.10.in-addr.arpa", {"cluster"}),
        (".", {"cluster", "all"}),
    ],
)
def test_what_is_told_is_what_is_asked(name, asked):
    simulation = Simulation(PROFILE, answer)
    told = explained(name, simulation)
    seen: set[str] = set()

    def note(sent: Sent) -> None:
        seen.add(sent.address)

    simulation.script = note
    if name != ".":
        simulation.ask(a_query(name))
        assert seen == {told[upstream].server for upstream in asked}
    assert {upstream for upstream, each in told.items() if each.asked} == asked
    assert all(each.why for each in told.values())


def test_each_servers_last_word_its_round_trip_and_its_health_are_told():
    simulation = Simulation(PROFILE, answer)
    assert {each.state for each in explained("db.corp.example", simulation).values()} == {"unused"}
    for n in range(4):
        simulation.ask(a_query(f"n{n}.corp.example", number=n + 1))
        simulation.run(3)
    simulation.resolver.plans.searches  # noqa: B018 nothing is asked by looking
    told = explained("db.corp.example", simulation)

    assert (told["corp"].state, told["corp"].last, told["corp"].rtt_ms) == ("well", "positive", 20)
    assert told["corp"].last_seconds_ago == 3.0
    assert (told["cluster"].state, told["cluster"].last) == ("well", "nxdomain")
    silent = told["all"]
    assert (silent.state, silent.last, silent.rtt_ms) == ("dead", "", None)


def test_a_server_is_not_called_well_before_it_has_answered():
    simulation = Simulation(PROFILE, answer)
    simulation.ask(a_query("x.example"))
    told = explained("x.example", simulation)
    assert (told["all"].state, told["all"].unanswered) == ("unheard", 0)

    simulation.run(3)
    told = explained("x.example", simulation)
    assert (told["all"].state, told["all"].unanswered) == ("unheard", 1)
    assert (told["cluster"].state, told["cluster"].unanswered) == ("well", 0)


def test_of_a_server_that_has_answered_what_it_leaves_unanswered_since_is_counted():
    simulation = Simulation(PROFILE, answer)
    simulation.ask(a_query("x.corp.example"))
    simulation.run(3)
    simulation.script = lambda sent: None
    simulation.ask(a_query("y.corp.example", number=2))
    simulation.run(3)

    told = explained("y.corp.example", simulation)
    assert (told["corp"].state, told["corp"].last, told["corp"].unanswered) == (
        "well",
        "positive",
        1,
    )


def test_names_that_are_searched_are_told():
    simulation = Simulation(PROFILE, answer)

    found = explain(PROFILE, simulation.resolver.plans, "db", simulation.now)
    assert found.searched == ("db.corp.example. of corp",)
    with pytest.raises(ValueError, match="is no name"):
        explain(PROFILE, simulation.resolver.plans, "a..b", simulation.now)
    assert parsed(a_query("db")).q.qname == "db."
