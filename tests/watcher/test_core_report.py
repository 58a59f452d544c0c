"""Report: what a Pod shows, judged only from what is current."""

import msgspec
import pytest

from schemas.grant import Refusal
from schemas.intent import Dns
from services.watcher.core import patience, requests
from services.watcher.core import report as reporting
from services.watcher.core.news import announcements
from services.watcher.core.report import Facts, Showing
from services.watcher.model import CONDITION, STATUS_ANNOTATION
from services.watcher.wording import listed, shorten
from tests.watcher.builders import a_grant, a_resolver, a_status, pod

NOTHING = Showing()


def wanted(found, *, node_ready=True):
    return requests.wanted(found, None, node_ready=node_ready, standing=())


def told(found, facts, shown=NOTHING, *, node_ready=True, heard=True):
    asked = wanted(found, node_ready=node_ready)
    return reporting.report(found, asked, shown, facts, heard=heard)


def granted(request, **fields):
    grant = a_grant(request)
    return Facts(grant=grant, status=a_status(grant, **fields))


def refused(request, reason="NoEndpoint"):
    return Facts(
        refusal=Refusal(
            namespace=request.pod.namespace,
            pod=request.pod.name,
            interface=request.interface,
            uid=request.pod.uid,
            network_service=request.network_service,
            reason=reason,
            message=f"{request.network_service} has no endpoint; start one",
        )
    )


def news(before, after):
    return [(each.type, each.reason) for each in announcements(before, after)]


def test_every_item_ready_is_connected():
    found = pod(asks="svc/nsm-1, other/nsm-2")
    result = told(found, granted)
    assert (result.connected, result.reason) == (True, "Connected")
    assert msgspec.json.decode(result.annotation)[0] == {
        "name": "default/svc",
        "interface": "nsm-1",
        "ips": ["172.16.1.2"],
        "mac": "02:00:00:00:00:01",
        "mtu": 1500,
        "state": "ready",
        "endpoint": "default/vpn-0",
    }
    assert news(NOTHING, result) == [("Normal", "Connected")] * 2


def test_one_failing_item_makes_it_false_and_is_named():
    def facts(request):
        return granted(request) if request.interface == "nsm-1" else refused(request)

    result = told(pod(asks="svc/nsm-1, other/nsm-2, third/nsm-3"), facts)
    assert (result.connected, result.reason) == (False, "NoEndpoint")
    assert "nsm-1" not in result.message
    assert "nsm-2 (default/other): other has no endpoint" in result.message
    assert "nsm-3 (default/third)" in result.message
    assert news(NOTHING, result) == [("Normal", "Connected"), *[("Warning", "NoEndpoint")] * 2]


def test_what_no_one_answered_yet_is_connecting_and_no_news():
    result = told(pod(asks="svc/nsm-1"), lambda _: Facts())
    assert (result.connected, result.reason) == (False, "Connecting")
    assert result.message == ("nsm-1 (default/svc): ipam has not answered yet; is it running?")
    assert news(NOTHING, result) == []


def test_a_status_of_another_pod_or_an_older_revision_is_not_ready():
    found = pod(asks="svc/nsm-1")

    def other_uid(request):
        grant = a_grant(request)
        return Facts(grant=grant, status=a_status(grant, uid="another"))

    def older(request):
        return Facts(
            grant=a_grant(request, revision=2), status=a_status(a_grant(request, revision=1))
        )

    assert told(found, other_uid).items[0].reason == "Connecting"
    assert told(found, older).items[0].reason == "Updating"
    assert told(found, older).reason == "Connecting"
    shown = reporting.as_shown(told(found, granted))
    assert patience.may_pass(shown, told(found, older, shown))
    assert not patience.may_pass(shown, told(found, other_uid, shown))


def test_what_a_connected_pod_gets_in_addition_may_come_within_a_moment():
    shown = reporting.as_shown(told(pod(asks="svc/nsm-1"), granted))
    more = pod(asks="svc/nsm-1, other/nsm-2")

    def waiting(*interfaces):
        return lambda request: Facts() if request.interface in interfaces else granted(request)

    assert patience.may_pass(shown, told(more, waiting("nsm-2"), shown))
    assert not patience.may_pass(shown, told(more, waiting("nsm-1"), shown))
    assert not patience.may_pass(shown, told(more, waiting("nsm-1", "nsm-2"), shown))
    assert not patience.may_pass(shown, told(more, granted, shown))
    assert not patience.may_pass(shown, told(more, refused, shown))

    def follows(request):
        return granted(request) if request.interface == "nsm-1" else refused(request, "NotReleased")

    assert patience.may_pass(shown, told(more, follows, shown))
    empty = Showing(connected=True, reason="Connected")
    assert patience.may_pass(empty, told(more, waiting("nsm-1", "nsm-2"), empty))
    failing = Showing(connected=False, reason="NoEndpoint")
    assert not patience.may_pass(failing, told(more, waiting("nsm-1", "nsm-2"), failing))
    malformed = pod(asks="svc/nsm-1, :")
    assert not patience.may_pass(shown, told(malformed, granted, shown))


def test_a_failed_end_says_the_nodes_reason():
    def facts(request):
        return granted(request, state="failed", reason="LinkFailed", message="no such netns")

    result = told(pod(asks="svc/nsm-1"), facts)
    assert result.reason == "LinkFailed"
    assert "no such netns" in result.message
    assert news(NOTHING, result) == [("Warning", "LinkFailed")]


def test_a_failure_with_an_older_grant_says_nothing_about_the_newer_one():
    def facts(revision):
        def found(request):
            failure = a_status(
                a_grant(request, revision=1), state="failed", reason="LinkFailed", message="full"
            )
            return Facts(grant=a_grant(request, revision=revision), status=failure)

        return found

    older = told(pod(asks="svc/nsm-1"), facts(2))
    assert (older.items[0].state, older.reason) == ("waiting", "Connecting")
    assert "waiting for node node1" in older.message
    assert "full" not in older.message
    assert told(pod(asks="svc/nsm-1"), facts(1)).reason == "LinkFailed"


def test_a_status_copied_from_another_pod_is_not_believed():
    result = told(pod(asks="svc/nsm-1"), granted)
    copied = pod(asks="svc/nsm-1", annotations={STATUS_ANNOTATION: result.annotation})
    shown = reporting.showing(copied)
    unsettled = told(copied, lambda _: Facts(settled=False), shown)
    assert (unsettled.connected, unsettled.reason, unsettled.kept) == (False, "Connecting", False)
    assert unsettled.items[0].state == "waiting"
    assert news(shown, unsettled) == []


def test_what_is_not_known_yet_leaves_what_the_pod_shows():
    found = pod(asks="svc/nsm-1")
    ready = told(found, granted)
    shown = reporting.as_shown(ready)
    unsettled = told(found, lambda _: Facts(settled=False), shown)
    assert unsettled.kept
    assert reporting.as_shown(unsettled) == shown
    assert news(shown, unsettled) == []
    refusal = told(found, refused)
    shown = reporting.as_shown(refusal)
    unsettled = told(found, lambda _: Facts(settled=False), shown)
    assert reporting.as_shown(unsettled) == shown
    assert news(shown, unsettled) == []


def test_what_is_not_known_about_another_network_service_is_not_kept():
    shown = reporting.as_shown(told(pod(asks="svc/nsm-1"), granted))
    result = told(pod(asks="other/nsm-1"), lambda _: Facts(settled=False), shown)
    assert result.items[0].state == "waiting"


def test_a_pod_that_never_asked_is_left_alone():
    assert told(pod(), granted) is None


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (pod(asks=""), NOTHING),
        (pod(gated=True), NOTHING),
        (pod(), Showing(connected=False, reason="Connecting")),
        (pod(), Showing(annotation="[]")),
    ],
    ids=["empty annotation", "readiness gate", "had the condition", "had the annotation"],
)
def test_asking_for_nothing_is_connected(found, shown):
    result = told(found, granted, shown)
    assert (result.connected, result.reason, result.annotation) == (True, "Connected", None)


def test_a_malformed_annotation_is_told_with_its_column_once():
    found = pod(asks="svc/nsm-1, :")
    result = told(found, granted)
    assert (result.connected, result.reason) == (False, "MalformedAnnotation")
    assert "column 12" in result.message
    assert news(NOTHING, result) == [("Warning", "MalformedAnnotation")]
    assert news(reporting.as_shown(result), result) == []


def test_host_network_is_told():
    result = told(pod(asks="svc", host_network=True), granted)
    assert (result.connected, result.reason) == (False, "HostNetwork")
    assert news(NOTHING, result) == [("Warning", "HostNetwork")]


def test_going_is_told_and_coming_back_too():
    found = pod(asks="svc/nsm-1")
    ready = told(found, granted)
    shown = reporting.as_shown(ready)
    assert news(shown, ready) == []
    lost = told(found, refused, shown)
    assert news(shown, lost) == [("Warning", "NoEndpoint")]
    (said,) = announcements(shown, lost)
    assert said.message == "nsm-1 (default/svc) is disconnected: svc has no endpoint; start one"
    assert news(reporting.as_shown(lost), told(found, granted)) == [("Normal", "Connected")]
    removed = told(pod(asks=""), granted, shown)
    assert news(shown, removed) == [("Normal", "Disconnected")]


def test_what_is_lost_may_be_explained_within_a_moment():
    found = pod(asks="svc/nsm-1")
    shown = reporting.as_shown(told(found, granted))
    gap = told(found, lambda _: Facts(), shown)
    assert patience.may_be_explained(shown, gap)
    assert not patience.may_be_explained(shown, told(found, refused, shown))
    assert not patience.may_be_explained(reporting.as_shown(gap), gap)
    (said,) = announcements(shown, gap)
    assert said.reason == "Disconnected"
    assert said.message == (
        "nsm-1 is disconnected from default/svc: ipam has not answered yet; is it running?"
    )


def test_a_reason_is_told_once_and_another_one_beside_it():
    def facts(request):
        if request.interface == "nsm-1":
            return refused(request, "PoolExhausted")
        return refused(request) if request.interface == "nsm-2" else Facts()

    result = told(pod(asks="svc/nsm-1, other/nsm-2, third/nsm-3"), facts)
    assert result.reason == "PoolExhausted"
    assert result.message == (
        "nsm-1 (default/svc): svc has no endpoint; start one; "
        "nsm-2 (default/other): NoEndpoint: other has no endpoint; start one; "
        "nsm-3 (default/third): Connecting: ipam has not answered yet; is it running?"
    )
    told_ = [each.message for each in announcements(NOTHING, result)]
    assert told_ == [
        "nsm-1 (default/svc): svc has no endpoint; start one",
        "nsm-2 (default/other): other has no endpoint; start one",
    ]


def test_a_condition_is_bounded_and_its_remedies_stay_readable():
    def long(request):
        refusal = refused(request).refusal
        text = "ü" * 100_000 + "; start one"
        return Facts(refusal=msgspec.structs.replace(refusal, message=text))

    result = told(pod(asks="svc/nsm-1"), long)
    assert len(result.message.encode()) < 4096
    assert result.message.endswith("ü; start one")
    many = ", ".join(f"svc/nsm-{at}" for at in range(100))
    result = told(pod(asks=many), long)
    assert 2048 < len(result.message.encode()) <= 4096
    assert result.message.startswith("nsm-0 (default/svc): ü")
    assert result.message.count("; start one") == 3
    assert result.message.endswith("; and 97 more")
    malformed = told(pod(asks="a" * 100_000 + ":"), granted)
    assert len(malformed.message.encode()) <= 4096
    wanted = reporting.as_shown(result)
    bare = reporting.without_annotation(wanted, Showing(), "x" * 5000 + "; do this")
    assert bare.annotation is None
    assert len(bare.message.encode()) <= 4096
    assert bare.message.endswith("x; do this")


@pytest.mark.parametrize("most", range(8, 80))
def test_no_cut_is_longer_than_allowed(most):
    for text in ("", "a", "üñ" * 40, "x" * 79):
        assert len(shorten(text, most).encode()) <= most
    parts = ["üñ" * at for at in range(1, 20)]
    assert len(listed(parts, most * 4).encode()) <= most * 4


def test_an_update_of_what_stands_is_no_disconnection():
    found = pod(asks="svc/nsm-1")
    shown = reporting.as_shown(told(found, granted))

    def older(request):
        return Facts(
            grant=a_grant(request, revision=2), status=a_status(a_grant(request, revision=1))
        )

    assert news(shown, told(found, older, shown)) == []


def test_an_ended_pod_gives_back_what_it_shows():
    ended = pod(asks="svc/nsm-1", phase="Succeeded")
    assert told(ended, granted) is None
    shown = reporting.as_shown(told(pod(asks="svc/nsm-1"), granted))
    result = told(ended, granted, shown)
    assert (result.connected, result.reason, result.annotation) == (False, "PodCompleted", None)


def test_a_pod_without_a_node_is_left_alone_unless_its_annotation_is_wrong():
    assert told(pod(asks="svc", node=""), granted) is None
    assert told(pod(asks=":", node=""), granted).reason == "MalformedAnnotation"


def test_what_a_pod_shows_is_read_back_as_written():
    found = pod(asks="svc/nsm-1")
    result = told(found, granted)
    written = pod(
        asks="svc/nsm-1",
        annotations={STATUS_ANNOTATION: result.annotation},
        conditions=[
            {
                "type": CONDITION,
                "status": "True",
                "reason": result.reason,
                "message": result.message,
            }
        ],
    )
    assert reporting.showing(written) == reporting.as_shown(result)


@pytest.mark.parametrize("text", ["", "{", "{}", '[{"name": 3}]', "[1]"])
def test_a_spoilt_annotation_shows_no_items_and_is_mended(text):
    shown = reporting.showing(pod(annotations={STATUS_ANNOTATION: text}))
    assert shown.items == ()
    assert shown.annotation == text


DNS = Dns(servers=("172.16.1.1",), domains=("corp.example",))


def resolved(resolver, *, revision=1, dns=DNS, wired=None):
    """Facts of a connection with DNS whose link stands; `resolver` is made from its grant."""

    def found(request):
        grant = a_grant(request, revision=revision, dns=dns)
        status = a_status(a_grant(request, revision=wired or revision, dns=dns))
        return Facts(grant=grant, status=status, resolver=resolver(grant))

    return found


def conflict(grant):
    return a_resolver(
        grant, state="failed", reason="DNSCaptureConflict", message="a redirect; remove it"
    )


def test_a_connection_with_dns_is_ready_once_its_dns_is_served_too():
    found = pod(asks="svc/nsm-1")
    waiting = told(found, resolved(lambda _: None))
    assert (waiting.connected, waiting.reason) == (False, "Connecting")
    assert waiting.message == (
        "nsm-1 (default/svc): ResolverPending: the dns service of node node1 has not answered "
        "yet; is it running?"
    )
    (item,) = msgspec.json.decode(waiting.annotation)
    assert (item["state"], item["reason"]) == ("waiting", "ResolverPending")
    assert item["ips"] == ["172.16.1.2"]  # the link stands and is told
    assert "dns" not in item
    assert news(NOTHING, waiting) == []

    ready = told(found, resolved(a_resolver), reporting.as_shown(waiting))
    assert (ready.connected, ready.reason) == (True, "Connected")
    (item,) = msgspec.json.decode(ready.annotation)
    assert item["state"] == "ready"
    assert item["dns"] == {"nameservers": ["172.16.1.1"], "domains": ["corp.example"]}
    assert news(reporting.as_shown(waiting), ready) == [("Normal", "Connected")]


def test_the_link_comes_before_its_dns():
    found = pod(asks="svc/nsm-1")
    assert told(found, resolved(conflict, revision=2, wired=1)).items[0].reason == "Updating"


def test_dns_that_fails_is_told_once_and_is_no_disconnection():
    found = pod(asks="svc/nsm-1")
    shown = reporting.as_shown(told(found, resolved(a_resolver)))
    failed = told(found, resolved(conflict), shown)
    assert (failed.connected, failed.reason) == (False, "DNSCaptureConflict")
    (said,) = announcements(shown, failed)
    assert (said.type, said.reason) == ("Warning", "DNSCaptureConflict")
    assert said.message == "nsm-1 (default/svc): its DNS is not served: a redirect; remove it"
    assert news(reporting.as_shown(failed), failed) == []
    assert not patience.may_pass(shown, failed)
    recovered = told(found, resolved(a_resolver), reporting.as_shown(failed))
    assert news(reporting.as_shown(failed), recovered) == [("Normal", "Connected")]
    removed = told(pod(asks=""), granted, reporting.as_shown(failed))
    assert news(reporting.as_shown(failed), removed) == [("Normal", "Disconnected")]


def test_a_link_that_is_lost_after_its_dns_is_a_disconnection():
    found = pod(asks="svc/nsm-1")
    shown = reporting.as_shown(told(found, resolved(conflict)))
    (said,) = announcements(shown, told(found, refused, shown))
    assert said.message == "nsm-1 (default/svc) is disconnected: svc has no endpoint; start one"


def test_dns_that_is_renewed_may_pass_within_a_moment_and_is_no_disconnection():
    found = pod(asks="svc/nsm-1")
    before = reporting.as_shown(told(found, granted))  # without DNS
    added = told(found, resolved(lambda _: None), before)
    assert added.items[0].reason == "ResolverPending"
    assert patience.may_pass(before, added)
    assert news(before, added) == []


@pytest.mark.parametrize("revision", [1, 2])
def test_served_dns_goes_on_when_the_word_of_its_resolver_is_lost(revision):
    found = pod(asks="svc/nsm-1")
    ready = told(found, resolved(a_resolver))
    shown = reporting.as_shown(ready)
    silent = told(found, resolved(lambda _: None, revision=revision), shown)
    assert reporting.as_shown(silent) == shown
    assert news(shown, silent) == []


def test_an_opted_out_connection_shows_no_dns_and_needs_no_resolver():
    found = pod(asks="svc/nsm-1")
    shown = reporting.as_shown(told(found, resolved(a_resolver)))
    result = told(found, granted, shown)
    assert result.connected
    assert result.items[0].dns is None


def test_dns_that_a_pod_shows_is_read_back_as_written():
    result = told(pod(asks="svc/nsm-1"), resolved(a_resolver))
    written = pod(
        asks="svc/nsm-1",
        annotations={STATUS_ANNOTATION: result.annotation},
        conditions=[
            {
                "type": CONDITION,
                "status": "True",
                "reason": result.reason,
                "message": result.message,
            }
        ],
    )
    assert reporting.showing(written) == reporting.as_shown(result)


def readdressed(request, *, wired=2):
    """Granted anew with another address; `wired`: the revision that stands."""
    old = a_grant(request)
    end = msgspec.structs.replace(old.client, addresses=("172.16.2.2/32",))
    new = msgspec.structs.replace(
        old, revision=2, client=end, readdressed="172.16.1.0/24 is excluded by the user now"
    )
    return Facts(grant=new, status=a_status(new if wired == 2 else old))


def test_a_connection_with_other_addresses_says_which_and_why():
    found = pod(asks="svc/nsm-1")
    before = reporting.as_shown(told(found, granted))
    after = told(found, readdressed, before)
    (said,) = announcements(before, after)
    assert (said.type, said.reason) == ("Warning", "Readdressed")
    assert said.message == (
        "nsm-1 (default/svc) has 172.16.2.2 now instead of 172.16.1.2: "
        "172.16.1.0/24 is excluded by the user now"
    )
    assert news(reporting.as_shown(after), told(found, readdressed)) == []


def test_the_old_address_is_shown_until_the_new_one_stands():
    found = pod(asks="svc/nsm-1")
    before = reporting.as_shown(told(found, granted))
    between = told(found, lambda request: readdressed(request, wired=1), before)
    (item,) = between.items
    assert (item.state, item.reason, item.ips) == ("waiting", "Updating", ("172.16.1.2",))
    assert news(before, between) == []
    after = told(found, readdressed, reporting.as_shown(between))
    assert news(reporting.as_shown(between), after) == [("Warning", "Readdressed")]


def test_who_is_connected_for_the_first_time_was_not_readdressed():
    assert news(NOTHING, told(pod(asks="svc/nsm-1"), readdressed)) == [("Normal", "Connected")]


def covered(request):
    why = "172.16.1.2 came to overlap 172.16.0.0/16 (user)"
    grant = msgspec.structs.replace(a_grant(request), revision=2, covered=why)
    return Facts(grant=grant, status=a_status(grant))


def test_what_a_prefix_in_use_covers_stays_connected_and_is_told_once():
    found = pod(asks="svc/nsm-1")
    before = reporting.as_shown(told(found, granted))
    after = told(found, covered, before)

    assert (after.connected, after.reason) == (True, "Connected")
    assert "nsm-1 (default/svc) stays" in after.message
    assert "172.16.1.2 came to overlap 172.16.0.0/16 (user); give" in after.message
    assert news(before, after) == [("Warning", "PrefixCollision")]
    assert news(reporting.as_shown(after), told(found, covered)) == []
    assert told(found, granted).message == "nsm-1 (default/svc)"


def test_what_a_prefix_in_use_covers_is_told_once_beside_a_connection_that_fails():
    found = pod(asks="svc/nsm-1, other/nsm-2")
    after = told(found, lambda r: covered(r) if r.interface == "nsm-1" else refused(r))
    assert "stays" not in after.message

    assert ("Warning", "PrefixCollision") in news(NOTHING, after)
    assert news(reporting.as_shown(after), after) == []


def test_what_prefixes_in_use_cover_is_told_once_though_the_message_cannot_hold_it_all():
    found = pod(asks=", ".join(f"svc-{at}/nsm-{at}" for at in range(8)))

    def facts(request):
        grant = msgspec.structs.replace(a_grant(request), revision=2, covered="because " * 120)
        return Facts(grant=grant, status=a_status(grant))

    after = told(found, facts)
    assert after.message.endswith("more")

    assert news(NOTHING, after).count(("Warning", "PrefixCollision")) == 8
    assert news(reporting.as_shown(after), after) == []


def test_what_a_predecessor_showed_as_covered_is_no_news():
    found = pod(asks="svc/nsm-1")
    after = told(found, covered)
    shown = msgspec.structs.replace(reporting.as_shown(after), covered=())
    assert news(shown, told(found, covered)) == []


@pytest.mark.parametrize(
    "reason", ["EndpointNodeNotReady", "EndpointNotReady", "NoEndpoint", "NotReleased"]
)
def test_only_what_is_new_may_wait_without_a_warning(reason):
    found = pod(asks="svc/nsm-1, other/nsm-2")

    def facts(request):
        return granted(request) if request.interface == "nsm-2" else refused(request, reason)

    first = told(found, facts)
    coming = patience.coming(NOTHING, first)
    assert coming == {"nsm-1"}
    told_so_far = list(announcements(NOTHING, first, but=coming))
    assert [each.reason for each in told_so_far] == ["Connected"]
    announced = reporting.as_shown(first, but=coming)
    assert news(announced, first) == [("Warning", reason)]
    assert patience.coming(announced, told(found, lambda r: refused(r, "PoolExhausted"))) == set()

    before = reporting.as_shown(told(found, granted))
    assert patience.coming(before, first) == set()


def test_what_is_answered_one_after_the_other_is_as_new_as_what_is_answered_at_once():
    found = pod(asks="svc/nsm-1, other/nsm-2")
    first = told(found, lambda r: refused(r) if r.interface == "nsm-1" else Facts())
    announced = reporting.as_shown(first, but=patience.coming(NOTHING, first))
    second = told(found, refused)

    assert patience.coming(announced, second) == {"nsm-1", "nsm-2"}
