"""DNS of a grant: what the endpoint provides, unless the Pod wants none."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import intent
from services.ipam.core.settling import settle
from tests.ipam.builders import a_request, a_state, an_endpoint, granted


def test_dns_without_servers_is_served_by_the_endpoints_address():
    endpoint = an_endpoint(dns=intent.Dns(domains=("corp.example",)))

    dns = granted(a_state(endpoint), a_request()).dns
    assert dns is not None
    assert dns.servers == ("172.16.1.1",)


def test_both_families_of_the_endpoints_address_serve_it():
    endpoint = an_endpoint(prefixes=("172.16.1.0/24", "2001:db8::/64"), dns=intent.Dns())

    dns = granted(a_state(endpoint), a_request()).dns
    assert dns == intent.Dns(servers=("172.16.1.1", "2001:db8::1"))


def test_a_pod_that_wants_no_dns_is_given_none():
    state = a_state(an_endpoint(dns=intent.Dns(servers=("172.16.1.1",))))

    assert granted(state, a_request(dns=False)).dns is None


def test_an_endpoint_without_dns_gives_none():
    assert granted(a_state(an_endpoint()), a_request()).dns is None


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(
                [
                    None,
                    intent.Dns(),
                    intent.Dns(servers=("172.16.1.1",)),
                    intent.Dns(domains=("corp.example",), search_domains=("corp.example",)),
                ]
            ),
        ),
        min_size=2,
        max_size=8,
    )
)
@settings(max_examples=50, deadline=None)
def test_dns_that_changes_under_a_connection_is_a_new_revision_and_nothing_else(steps):
    state = a_state(an_endpoint())
    before = granted(state, a_request())

    for wants, provided in steps:
        endpoint = an_endpoint(dns=provided)
        state.put_endpoint(endpoint.key, endpoint)
        after = granted(state, a_request(dns=wants))
        given_dns = (
            msgspec.structs.replace(provided, servers=("172.16.1.1",))
            if provided and wants
            else None
        )

        assert after.dns == given_dns
        differs = after.dns != before.dns
        assert after.revision == before.revision + differs
        assert after == msgspec.structs.replace(before, dns=given_dns, revision=after.revision)
        before = after


def test_an_adopted_connection_whose_pod_opted_out_meanwhile_loses_its_dns_alone():
    endpoint = an_endpoint(dns=intent.Dns())
    reported = granted(a_state(endpoint), a_request())
    state = a_state(endpoint)

    writes = settle(state, a_request(dns=False), refusal=None, reported=reported)

    assert writes.granted is not None
    assert writes.granted == msgspec.structs.replace(
        reported, dns=None, revision=reported.revision + 1
    )
