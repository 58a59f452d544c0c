"""Subjects are built and parsed in one place, and only from names that cannot lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import subjects
from schemas.subjects import (
    BadSubject,
    ConnectionKey,
    EndpointKey,
    PrefixKey,
    RequestKey,
    ResolverKey,
    parse,
)

_NAME = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)
_INTERFACE = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,14}", fullmatch=True)


@given(st.sampled_from(sorted(subjects.KEYS)), st.data())
def test_a_key_survives_its_subject(kind, data):
    key_type = subjects.KEYS[kind]
    values = [
        data.draw(_INTERFACE if field == "interface" else _NAME)
        for field in key_type.__struct_fields__
    ]
    key = key_type(*values)

    assert parse(key.subject) == key
    assert parse(f"log.{key.subject}") == key


def test_dots_of_names_become_underscores():
    key = ConnectionKey("node-1.example.org", "default", "my.pod", "nsm_1")

    assert key.subject == "nsm.connection.node-1_example_org.default.my_pod.nsm_1"
    assert parse(key.subject) == key


def test_a_prefix_source_may_stand_alone():
    assert parse("nsm.prefix.user") == PrefixKey("user")
    assert parse("nsm.prefix.node.node1") == PrefixKey("node", "node1")


@pytest.mark.parametrize("name", ["*", ">", "a b", "", "a_b", "a\n", "é", "a/b", "a*"])
def test_a_name_that_no_kubernetes_object_has_never_becomes_a_subject(name):
    with pytest.raises(BadSubject, match="pod"):
        RequestKey("default", name, "nsm-1").subject  # noqa: B018 - the property raises


@pytest.mark.parametrize(
    "subject",
    [
        "nsm",
        "nsm.other.a",
        "other.request.a.b.c",
        "nsm.request.a.b",
        "nsm.request.a.b.c.d",
        "nsm.request.a.*.c",
        "nsm.request.a..c",
        "nsm.request.a.b.>",
    ],
)
def test_a_foreign_subject_is_refused(subject):
    with pytest.raises(BadSubject):
        parse(subject)


def test_a_filter_names_all_of_a_kind_or_of_a_node():
    assert ConnectionKey.all() == "nsm.connection.>"
    assert ConnectionKey.all("node-1.x") == "nsm.connection.node-1_x.>"


@pytest.mark.parametrize(
    ("kind", "namespace", "wanted"),
    [
        (RequestKey, "apps", "nsm.request.apps.my_app.>"),
        (RequestKey, "", "nsm.request.*.my_app.>"),
        (ConnectionKey, "apps", "nsm.connection.*.apps.my_app.>"),
        (EndpointKey, "apps", "nsm.endpoint.apps.*.my_app"),
        (ResolverKey, "apps", "nsm.resolver.*.apps.my_app"),
    ],
)
def test_what_is_said_of_one_pod_has_a_filter(kind, namespace, wanted):
    assert kind.of_pod(namespace, "my.app") == wanted


def test_a_filter_for_a_pod_takes_no_wildcard():
    with pytest.raises(BadSubject):
        RequestKey.of_pod("apps", "*")
