"""Who gets the gate, who gets a word, and that nothing else ever happens to a Pod."""

import copy

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.api.json_patching import json_patch
from schemas.annotation import ANNOTATION, CONDITION, AnnotationError, parse
from services.webhook.core import HOST_NETWORK, judge
from services.webhook.model import Pod

OURS = {"conditionType": CONDITION}


def a_pod(asked=None, gates=None, **spec):
    metadata = {"name": "p", "labels": {"a": "b"}}
    if asked is not None:
        metadata["annotations"] = {"other": "one", ANNOTATION: asked}
    if gates is not None:
        spec["readinessGates"] = [{"conditionType": each} for each in gates]
    return {"metadata": metadata, "spec": {"containers": [{"name": "c"}], **spec}}


def judged(pod):
    return judge(msgspec.convert(pod, Pod), "ns")


def let_in(pod):
    """The Pod as the API server would keep it."""
    return json_patch(copy.deepcopy(pod), list(judged(pod).patch))


@pytest.mark.parametrize(
    ("gates", "after"),
    [
        (None, [CONDITION]),
        ([], [CONDITION]),
        (["a.b/c"], ["a.b/c", CONDITION]),
        ([CONDITION], [CONDITION]),
        ([CONDITION, "a.b/c"], [CONDITION, "a.b/c"]),
    ],
)
def test_who_asks_for_network_services_gets_the_gate_once(gates, after):
    made = let_in(a_pod("kernel://vpn/nsm-1", gates))
    assert [each["conditionType"] for each in made["spec"]["readinessGates"]] == after
    assert judged(a_pod("kernel://vpn/nsm-1", gates)).warnings == ()


@pytest.mark.parametrize(
    "pod", [a_pod(), a_pod(""), a_pod(" \n"), {"metadata": {"annotations": None}}]
)
def test_who_asks_for_nothing_stays_as_it_is(pod):
    assert judged(pod).patch == ()
    assert judged(pod).warnings == ()


def test_null_fields_are_fields_that_are_not_there():
    pod = a_pod("vpn") | {"spec": {"readinessGates": None, "hostNetwork": None}}
    assert let_in(pod)["spec"]["readinessGates"] == [OURS]


def test_a_malformed_annotation_is_told_with_column_and_remedy_and_waits_for_its_correction():
    verdict = judged(a_pod("kernel://vpn, kernel://corp:53"))
    assert verdict.warnings == (
        "annotation networkservicemesh.io, column 28: a network service has no port; remove ':' and the port",
    )
    assert verdict.patch


def test_a_pod_of_the_nodes_network_is_told_that_it_waits_in_vain():
    verdict = judged(a_pod("vpn", hostNetwork=True))
    assert verdict.warnings == (HOST_NETWORK,)
    assert verdict.patch
    assert judged(a_pod("", hostNetwork=True)).warnings == ()
    assert len(judged(a_pod("vpn:1", hostNetwork=True)).warnings) == 2


@given(
    asked=st.none() | st.text(max_size=400) | st.sampled_from(["vpn", "a,b", "a,,b", "x" * 300]),
    gates=st.none() | st.lists(st.sampled_from([CONDITION, "a.b/c", "d.e/f"]), unique=True),
    host_network=st.booleans(),
)
def test_the_gate_is_all_that_changes_and_asked_again_nothing_does(asked, gates, host_network):
    pod = a_pod(asked, gates, hostNetwork=host_network)
    made = let_in(pod)
    assert judged(made).patch == ()
    assert judged(made).warnings == judged(pod).warnings
    after = made["spec"].pop("readinessGates", None)
    before = pod["spec"].pop("readinessGates", None)
    assert made == pod
    assert [each for each in after or [] if each != OURS] == [
        each for each in before or [] if each != OURS
    ]


@given(asked=st.text(max_size=500) | st.from_regex(r"[a-z:/@?,= ]{0,500}", fullmatch=True))
def test_a_warning_is_never_so_long_that_its_remedy_is_cut(asked):
    try:
        parse(asked, namespace="ns")
    except AnnotationError as exc:
        (warning,) = judged(a_pod(asked)).warnings
        assert len(warning) <= 256
        assert f"column {exc.column}: " in warning
        assert warning.endswith(exc.remedy)
