"""A repair is told once, on the Pod whose interface it was."""

from schemas.codec import Tombstone
from schemas.intent import PodRef, Request
from schemas.state import EndStatus, Status
from services.watcher.core.repairs import Repairs
from tests.watcher.builders import a_grant


def a_repair(client="", server=""):
    pod = PodRef(namespace="default", name="client", uid="uid-client", node="node1")
    grant = a_grant(Request(pod=pod, interface="nsm-1", network_service="vpn"))
    return Status(
        node="node1",
        namespace="default",
        pod="client",
        interface="nsm-1",
        revision=1,
        client=EndStatus(uid=pod.uid, state="ready", applied=grant, repaired=client),
        server=EndStatus(uid="uid-vpn-0", state="ready", applied=grant, repaired=server),
    )


def told(repairs, status, *, is_news=True):
    return [
        (pod.name, what.reason, what.message)
        for pod, what in repairs.note(status.key, status, is_news=is_news)
    ]


def test_each_repair_is_told_once_without_its_time():
    repairs = Repairs()
    first = a_repair("2020-01-01T00:00:00 nsm-1: it was down")
    assert told(repairs, first) == [("client", "InterfaceRepaired", "nsm-1: it was down")]
    assert told(repairs, first) == []
    assert len(told(repairs, a_repair("2020-01-01T00:00:01 nsm-1: it was down"))) == 1


def test_a_repair_of_the_other_end_is_told_on_the_endpoint_pod():
    status = a_repair(server="2020-01-01T00:00:00 nse-1: it was gone")
    ((name, _, _),) = told(Repairs(), status)
    assert name == status.server.applied.server.pod.name


def test_what_the_snapshot_holds_is_no_news_and_stays_none():
    repairs = Repairs()
    status = a_repair("2020-01-01T00:00:00 nsm-1: it was down")
    assert told(repairs, status, is_news=False) == []
    assert told(repairs, status) == []


def test_nothing_is_remembered_of_what_ended():
    repairs = Repairs()
    status = a_repair("2020-01-01T00:00:00 nsm-1: it was down")
    told(repairs, status)
    assert list(repairs.note(status.key, Tombstone(), is_news=True)) == []
    assert repairs._told == {}
