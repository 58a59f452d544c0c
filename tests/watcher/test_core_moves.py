"""Another address of an endpoint is told once, to its Pod and to who would not notice otherwise."""

import msgspec

from schemas.codec import Tombstone
from schemas.intent import PodRef, Request
from schemas.state import EndStatus, Status
from services.watcher.core.moves import Moves
from tests.watcher.builders import a_grant


def a_status(*, client="172.16.1.2/32", server="172.16.1.1/32", pod="vpn-0", sides="both", why="w"):
    asking = PodRef(namespace="default", name="client", uid="uid-client", node="node1")
    found = a_grant(Request(pod=asking, interface="nsm-1", network_service="vpn"))
    serving = msgspec.structs.replace(found.server.pod, name=pod, uid=f"uid-{pod}")
    grant = msgspec.structs.replace(
        found,
        readdressed=why,
        client=msgspec.structs.replace(found.client, addresses=(client,)),
        server=msgspec.structs.replace(found.server, addresses=(server,), pod=serving),
    )
    end = EndStatus(uid="uid", state="ready", applied=grant)
    return Status(
        node="node1",
        namespace="default",
        pod="client",
        interface="nsm-1",
        revision=1,
        client=end if sides != "server" else None,
        server=end if sides != "client" else None,
    )


def told(moves, status, *, is_news=True):
    return [
        (pod.name, what.reason, what.message)
        for pod, what in moves.note(status.key, status, is_news=is_news)
    ]


def test_the_endpoint_pod_hears_of_its_new_address_in_words_that_name_no_client():
    moves = Moves()
    assert told(moves, a_status(sides="server")) == []
    moved = a_status(client="172.16.9.2/32", server="172.16.9.1/32", sides="server")
    ((name, reason, message),) = told(moves, moved)
    assert (name, reason) == ("vpn-0", "Readdressed")
    assert message.startswith("this Pod has 172.16.9.1 now instead of 172.16.1.1 as endpoint ")
    assert told(moves, moved) == []


def test_a_client_hears_of_it_where_its_own_address_stays():
    moves = Moves()
    told(moves, a_status())
    names = [name for name, _, _ in told(moves, a_status(server="172.16.1.9/32"))]
    assert names == ["vpn-0", "client"]
    # With another address of its own its status says all of it.
    names = [n for n, _, _ in told(moves, a_status(client="172.16.9.2/32", server="172.16.9.1/32"))]
    assert names == ["vpn-0"]


def test_another_endpoint_pod_and_a_grant_that_says_no_reason_are_no_moves():
    moves = Moves()
    told(moves, a_status())
    assert told(moves, a_status(server="172.16.9.1/32", pod="vpn-1")) == []
    assert told(moves, a_status(server="172.16.8.1/32", pod="vpn-1", why="")) == []


def test_what_the_snapshot_holds_is_no_news_and_nothing_is_remembered_of_what_ended():
    moves = Moves()
    status = a_status()
    assert told(moves, status, is_news=False) == []
    assert told(moves, a_status(server="172.16.1.9/32"), is_news=False) == []
    assert list(moves.note(status.key, Tombstone(), is_news=True)) == []
    assert moves._stood == {}
