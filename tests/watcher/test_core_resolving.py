"""Resolving: whether a connection's DNS is served, judged only from what its node says."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.intent import Dns
from services.watcher.core import requests, resolving
from services.watcher.model import ShownDns
from tests.watcher.builders import a_grant, a_resolver, an_upstream, pod

(REQUEST,) = requests.wanted(pod(asks="svc/nsm-1"), None, node_ready=True, standing=()).requests
DNS = Dns(servers=("172.16.1.1",), domains=("corp.example",), search_domains=("corp.example",))
OTHER = Dns(servers=("172.16.1.9",))


def a_grant_of(dns=DNS, revision=1):
    return a_grant(REQUEST, revision=revision, dns=dns)


def told(grant, resolver, was=None):
    missing = resolving.unserved(grant, resolver, was=was)
    return None if missing is None else (missing.state, missing.reason)


def unserved(resolver, was=None):
    missing = resolving.unserved(a_grant_of(), resolver, was=was)
    assert missing is not None
    return missing


def test_a_connection_without_dns_waits_for_no_resolver():
    failed = a_resolver(a_grant_of(), state="failed", reason="DNSCaptureConflict")
    assert told(a_grant(REQUEST), None) is None
    assert told(a_grant(REQUEST), failed) is None


def test_a_resolver_that_lists_the_connection_serves_it():
    assert told(a_grant_of(), a_resolver(a_grant_of())) is None


@pytest.mark.parametrize(
    "resolver",
    [
        None,
        a_resolver(a_grant_of(), uid="a predecessor's"),
        a_resolver(a_grant_of(), upstreams=()),
        a_resolver(a_grant_of(), upstreams=(an_upstream(a_grant_of(), interface="nsm-2"),)),
        a_resolver(a_grant_of(), state="pending", reason="ResolverPending"),
    ],
    ids=["none", "of another Pod", "lists nothing", "lists another one", "pending"],
)
def test_until_its_node_answers_it_waits_and_says_for_whom(resolver):
    missing = unserved(resolver)
    assert (missing.state, missing.reason) == ("waiting", "ResolverPending")
    assert missing.message == ("the dns service of node node1 has not answered yet; is it running?")


def test_a_pending_resolver_says_itself_for_what_it_waits():
    resolver = a_resolver(a_grant_of(), state="pending", message="the Pod has no network yet")
    assert unserved(resolver).message == ("the Pod has no network yet")


def test_a_failed_resolver_says_its_reason_and_remedy_for_every_connection():
    conflict = a_resolver(
        a_grant_of(),
        state="failed",
        reason="DNSCaptureConflict",
        message="another redirect; remove it",
        upstreams=(),
    )
    for was in (None, resolving.shown(DNS)):
        missing = unserved(conflict, was)
        assert (missing.state, missing.reason) == ("failed", "DNSCaptureConflict")
        assert missing.message == "its DNS is not served: another redirect; remove it"
    silent = a_resolver(a_grant_of(), state="failed")
    assert told(a_grant_of(), silent) == ("failed", "DNSCaptureFailed")


def test_an_unrelated_revision_needs_no_new_word_of_the_resolver():
    assert told(a_grant_of(revision=9), a_resolver(a_grant_of(revision=3))) is None


def test_changed_dns_waits_for_the_revision_that_brought_it():
    older = a_resolver(a_grant_of(OTHER, revision=1))
    assert told(a_grant_of(revision=2), older, resolving.shown(OTHER)) == (
        "waiting",
        "ResolverPending",
    )
    assert told(a_grant_of(revision=2), a_resolver(a_grant_of(revision=2))) is None
    newer = a_resolver(a_grant_of(OTHER, revision=3))  # its grant has not reached us yet
    assert told(a_grant_of(revision=2), newer) is None


def test_who_was_served_is_believed_while_nobody_says_otherwise():
    assert told(a_grant_of(), None, resolving.shown(DNS)) is None
    assert told(a_grant_of(), None, resolving.shown(OTHER)) == ("waiting", "ResolverPending")
    predecessor = a_resolver(a_grant_of(), uid="another", state="failed")
    assert told(a_grant_of(), predecessor, resolving.shown(DNS)) is None
    unlisted = a_resolver(a_grant_of(), upstreams=())
    assert told(a_grant_of(), unlisted, resolving.shown(DNS)) == ("waiting", "ResolverPending")


NAMES = st.lists(st.sampled_from(["a.b", "c.d", "e"]), max_size=3).map(tuple)
DNSES = st.builds(
    Dns,
    servers=st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2"]), min_size=1).map(tuple),
    domains=NAMES,
    search_domains=NAMES,
)


@given(DNSES, DNSES, st.integers(1, 3), st.integers(1, 3))
def test_served_is_exactly_the_same_dns_or_a_revision_that_is_not_older(one, other, old, new):
    granted, listed = a_grant_of(one, revision=new), a_grant_of(other, revision=old)
    same = (one.servers, set(one.domains), one.search_domains) == (
        other.servers,
        set(other.domains),
        other.search_domains,
    )
    assert (told(granted, a_resolver(listed)) is None) is (same or old >= new)


@given(DNSES)
def test_dns_is_shown_in_the_words_of_network_status_and_read_back(dns):
    written = msgspec.json.encode(resolving.shown(dns))
    assert msgspec.json.decode(written, type=ShownDns) == resolving.shown(dns)
    fields = msgspec.json.decode(written)
    assert set(fields) <= {"nameservers", "domains", "search"}
    assert all(fields.values())
