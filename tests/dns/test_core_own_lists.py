"""A Pod's own search list comes before a service's search domains: no name that it finds changes its meaning."""

import pytest

from services.dns.core.explaining import explain
from services.dns.core.searching import own
from services.dns.model import Limits
from tests.dns.behaviours import reply_of
from tests.dns.simulation import Sent, Simulation
from tests.dns.test_core import read
from tests.dns.upstreams import a_profile, a_query, cluster, outcome, parsed, service

CLUSTER, CORP = "10.96.0.10", "172.16.1.1"
OWN_LIST = ("ns.svc.cluster.local", "svc.cluster.local", "cluster.local")
PROFILE = a_profile(
    cluster(CLUSTER, search_domains=OWN_LIST),
    service("corp", CORP, domains=("corp.example",), search_domains=("corp.example",)),
)
IN_CORP = ("NOERROR", ["db.corp.example.", "10.0.0.1"])


class Story:
    """A cluster whose names do what the test says, and deny otherwise; a service that knows every name."""

    def __init__(self, does: dict[str, str]) -> None:
        self.does = does
        self.asked: list[tuple[str, str]] = []
        self.simulation = Simulation(PROFILE, self._act, limits=Limits(cached=10))

    def _act(self, sent: Sent) -> None:
        name = str(parsed(sent.packet).q.qname).rstrip(".")
        if name == "id.server":
            return
        self.asked.append((sent.address, name))
        does = "positive" if sent.address == CORP else self.does.get(name, "nxdomain")
        if does != "silent":
            sent.answer(0.01, reply_of(does, sent.packet))

    def ask(self, name: str, kind: str = "A") -> tuple[str, list[str]]:
        self.asked.clear()
        self.simulation.answers.clear()
        self.simulation.ask(a_query(name, kind))
        self.simulation.run(9)
        [answered] = self.simulation.answers
        return outcome(answered.message)

    def asked_of(self, server: str) -> list[str]:
        return list(dict.fromkeys(name for address, name in self.asked if address == server))


@pytest.mark.parametrize("denial", ["nxdomain", "refused"])
def test_a_service_is_asked_when_the_pods_own_list_has_ended(denial: str) -> None:
    story = Story({"db": denial, "db.cluster.local": denial})

    assert story.ask("db") == IN_CORP
    assert story.asked_of(CLUSTER) == ["db", *(f"db.{domain}" for domain in OWN_LIST)]
    assert story.asked[-1] == (CORP, "db.corp.example")


@pytest.mark.parametrize("found", ["positive", "nodata", "barecname"])
@pytest.mark.parametrize("domain", OWN_LIST)
def test_a_name_of_the_pods_own_list_keeps_its_meaning(found: str, domain: str) -> None:
    """Also for who asks for the name as it is first (`ndots:0`), and for its other types."""
    story = Story({f"db.{domain}": found})

    assert story.ask("db") == ("NXDOMAIN", [])
    assert story.asked_of(CORP) == []


@pytest.mark.parametrize("fails", ["servfail", "silent"])
def test_a_name_that_the_own_list_may_find_is_not_a_services_and_that_is_not_kept(
    fails: str,
) -> None:
    story = Story({"db.svc.cluster.local": fails})

    assert story.ask("db") == ("NXDOMAIN", [])
    assert story.asked_of(CORP) == []
    story.does.clear()
    assert story.ask("db") == IN_CORP


def test_while_the_cluster_is_silent_a_short_name_is_nobodys() -> None:
    story = Story(dict.fromkeys(("db", *(f"db.{domain}" for domain in OWN_LIST)), "silent"))

    assert story.ask("db") == ("SERVFAIL", [])
    assert story.asked_of(CORP) == []


def test_a_name_as_it_is_that_comes_late_is_waited_for_although_the_own_list_knows_it() -> None:
    story = Story({"db.cluster.local": "positive"})
    usual = story.simulation.script

    def act(sent: Sent) -> None:
        if parsed(sent.packet).q.qname == "db.":
            sent.answer(2.3, reply_of("positive", sent.packet))
        else:
            usual(sent)

    story.simulation.script = act
    assert story.ask("db") == ("NOERROR", ["10.0.0.1"])


def test_without_search_domains_of_services_the_own_list_is_left_to_the_pod() -> None:
    asked: list[bytes] = []
    profile = a_profile(cluster(CLUSTER, search_domains=OWN_LIST), service("corp", CORP))
    simulation = Simulation(profile, lambda sent: asked.append(sent.packet[12:]))
    simulation.ask(a_query("db"))
    simulation.run(9)

    assert {packet[:3] for packet in asked if packet[:3] != b"\2id"} == {b"\2db"}
    assert {len(packet) for packet in asked if packet[:3] == b"\2db"} == {8}


def test_what_is_no_domain_of_a_list_and_what_would_be_too_long_is_passed_over() -> None:
    searches = (".", "a..b", ".".join(["x" * 63] * 4), "corp.test")
    found = own(read(a_query("db")), (cluster(CLUSTER, search_domains=searches),))

    assert [query.name for query in found] == [b"\2db\4corp\4test\0"]


def test_the_own_list_is_told_where_it_matters() -> None:
    simulation = Simulation(PROFILE, lambda _: None)
    told = explain(PROFILE, simulation.resolver.plans, "db", simulation.now)

    assert told.own_list == tuple(f"db.{domain}." for domain in OWN_LIST)
    assert told.searched == ("db.corp.example. of corp",)
    assert not explain(PROFILE, simulation.resolver.plans, "db.example", simulation.now).own_list
