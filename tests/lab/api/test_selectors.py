"""Selectors: what Kubernetes' grammar means, and that it reads back what it writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.api.errors import ApiError
from lab.api.kinds import EVENTS, NETWORK_SERVICES, PODS
from lab.api.selectors import Requirement, parse_fields, parse_labels, select

LABELS = {"app": "web", "tier": "front"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web , tier=front", True),
        ("app=db", False),
        ("app!=db", True),
        ("app!=web", False),
        ("missing!=x", True),
        ("app in (web, db)", True),
        ("app notin (web,db)", False),
        ("missing notin (a)", True),
        ("missing in (a)", False),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("!app", False),
        ("app in (web,db),!missing,tier", True),
    ],
)
def test_a_label_selector_means_what_it_means_in_kubernetes(text, holds):
    assert select(PODS, labels=text).holds({"metadata": {"labels": LABELS}}) is holds


@pytest.mark.parametrize("text", ["a=b c", "in (a)", "a in b", "a in (b", "a=-b", "=x", "a,,b"])
def test_a_bad_label_selector_is_a_bad_request_that_quotes_it(text):
    with pytest.raises(ApiError) as caught:
        parse_labels(text)
    assert caught.value.code == 400
    assert text in caught.value.message


names = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
requirements = st.builds(
    Requirement,
    names.filter(lambda name: name not in ("in", "notin")),
    st.lists(names, max_size=3, unique=True).map(sorted).map(tuple),
    st.booleans(),
)


@given(st.lists(requirements, min_size=1, max_size=4))
def test_what_a_selector_writes_it_reads_back(wanted):
    assert parse_labels(",".join(map(str, wanted))) == tuple(wanted)


@given(requirements, st.dictionaries(names, names, max_size=4))
def test_a_requirement_and_its_negation_never_agree(requirement, labels):
    opposite = Requirement(requirement.key, requirement.values, not requirement.negated)
    assert requirement.met_by(labels) is not opposite.met_by(labels)


@pytest.mark.parametrize(
    ("kind", "text", "holds"),
    [
        (PODS, "metadata.name=web", True),
        (PODS, "metadata.name!=web", False),
        (PODS, "metadata.namespace=default,spec.nodeName=node1", True),
        (PODS, "spec.nodeName=", False),
        (PODS, "status.phase!=Running", True),
        (PODS, "spec.hostNetwork=false", True),
        (EVENTS, "involvedObject.name=web,involvedObject.kind=Pod", True),
        (EVENTS, "involvedObject.uid=other", False),
    ],
)
def test_a_field_selector_looks_at_its_field(kind, text, holds):
    obj = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"nodeName": "node1"},
        "involvedObject": {"kind": "Pod", "name": "web", "uid": "u1"},
    }
    assert select(kind, fields=text).holds(obj) is holds


@pytest.mark.parametrize(
    ("kind", "text"), [(PODS, "spec.x=1"), (NETWORK_SERVICES, "spec.payload=IP"), (PODS, "web")]
)
def test_a_field_that_cannot_be_selected_is_refused_instead_of_matching_all(kind, text):
    with pytest.raises(ApiError, match=r"field (label not supported|selector)|invalid field"):
        parse_fields(kind, text)
