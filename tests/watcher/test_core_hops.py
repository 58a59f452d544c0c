"""A route that nobody could follow is refused where it is written, so that the version before stays in force."""

import pytest

from services.watcher import model
from services.watcher.core import specs
from services.watcher.model import Problem
from tests.watcher.builders import an_endpoint, read


def problem(**spec):
    found = specs.read_endpoint(read(model.NetworkServiceEndpoint, an_endpoint(**spec)))
    return found.message if isinstance(found, Problem) else None


def via(hop, to="10.20.0.0/16"):
    return {"destination": to, "nextHop": hop}


@pytest.mark.parametrize(
    ("hop", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("224.0.0.1", "multicast"),
        ("0.0.0.0", "this network"),
        ("240.0.0.1", "reserved"),
    ],
)
@pytest.mark.parametrize("where", ["routes", "policies"])
def test_a_next_hop_that_is_nobodys_address_is_refused(hop, why, where):
    routes = [via(hop)]
    message = problem(**{where: routes if where == "routes" else [{"routes": routes}]})
    assert message is not None
    assert f"{where}[0]" in message
    assert ".nextHop" in message
    assert why in message


def test_a_next_hop_lies_in_a_prefix_or_behind_another_route():
    onward = {"destination": "192.168.7.0/24"}
    assert problem(routes=[via("172.16.1.9")]) is None
    assert problem(routes=[via("192.168.7.1"), onward]) is None
    message = problem(routes=[onward, via("192.168.8.1")])
    assert message is not None
    assert "spec.routes[1].nextHop: '192.168.8.1' lies neither in ipam.prefixes nor" in message
    # Not behind itself, nor behind a route that leads everywhere.
    assert problem(routes=[via("10.20.0.1")]) is not None
    assert problem(routes=[via("192.168.7.1"), {"destination": "0.0.0.0/0"}]) is not None


def test_what_only_ipam_can_judge_is_left_to_it():
    assert problem(ipam={}, routes=[via("192.168.8.1"), {"destination": "2001:db8::/64"}]) is None
    assert problem(policies=[{"routes": [via("192.168.8.1")]}]) is None


@pytest.mark.parametrize("where", ["routes", "policies"])
def test_a_route_needs_a_prefix_of_its_family(where):
    routes = [{"destination": "2001:db8::/64"}]
    message = problem(**{where: routes if where == "routes" else [{"routes": routes}]})
    assert message is not None
    assert "without an IPv6 prefix; add one to ipam.prefixes" in message


@pytest.mark.parametrize("source", ["127.0.0.1/32", "ff02::1/128"])
def test_a_policy_may_not_be_about_an_address_that_no_client_can_have(source):
    message = problem(policies=[{"from": source}])
    assert message is not None
    assert "policies[0].from" in message


@pytest.mark.parametrize(
    ("hop", "addressing", "left_out"),
    [
        ("172.16.1.9", "shared", ("172.16.1.9/32",)),
        ("172.16.1.1", "shared", ()),  # the endpoint's own
        ("172.16.1.1", "pointToPoint", ("172.16.1.1/32",)),
        ("192.168.7.1", "shared", ()),  # behind the other route
    ],
)
def test_a_next_hop_is_no_clients_address(hop, addressing, left_out):
    routes = [via(hop), {"destination": "192.168.7.0/24"}]
    found = specs.read_endpoint(
        read(
            model.NetworkServiceEndpoint,
            an_endpoint(
                ipam={"prefixes": ["172.16.1.0/24"], "addressing": addressing}, routes=routes
            ),
        )
    )
    assert not isinstance(found, Problem)
    assert found.ipam.exclude_prefixes == left_out
