"""The annotation grammar: what is accepted means what it says, what is not points at its column."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import annotation, values
from schemas.annotation import AnnotationError, Item, parse

SEED = "kernel://my-networkservice-1/nsm-1?app=foo&version=v1.1, kernel://my-networkservice-2"


def test_the_example_of_the_mission_is_accepted_blank_after_the_comma_included():
    first, second = parse(SEED, namespace="default")

    assert first == Item(
        network_service="my-networkservice-1",
        interface="nsm-1",
        labels={"app": "foo", "version": "v1.1"},
    )
    assert second.network_service == "my-networkservice-2"
    assert second.interface == annotation.default_interface("my-networkservice-2", "default")


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_an_empty_annotation_asks_for_nothing(text):
    assert parse(text, namespace="default") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("svc", Item(network_service="svc", interface="nsm-svc-2f5b")),
        ("svc/if0", Item(network_service="svc", interface="if0")),
        ("KERNEL://svc/if0", Item(network_service="svc", interface="if0")),
        ("svc@team-a/if0", Item(network_service="svc", namespace="team-a", interface="if0")),
        ("svc/if0?a=", Item(network_service="svc", interface="if0", labels={"a": ""})),
        (
            "a.b/if0?x.io/app=foo_1",
            Item(network_service="a.b", interface="if0", labels={"x.io/app": "foo_1"}),
        ),
        ("\n  svc/if_0 ", Item(network_service="svc", interface="if_0")),
    ],
)
def test_forms_that_are_accepted(text, expected):
    (item,) = parse(text, namespace="default")

    if expected.interface.startswith("nsm-"):
        expected = Item(
            network_service=expected.network_service,
            interface=annotation.default_interface(expected.network_service, "default"),
        )
    assert item == expected


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("a,,b", 3, "nothing between commas"),
        ("a, ", 3, "nothing between commas"),
        (",a", 1, "nothing between commas"),
        ("kernel://", 10, "no network service"),
        ("kernel:///nsm-1", 10, "no network service"),
        ("vfio://svc", 1, "unknown mechanism 'vfio'"),
        ("a, memif://svc", 4, "unknown mechanism 'memif'"),
        ("kernel://svc:8080/x", 13, "a network service has no port"),
        ("kernel://svc@ns:1/x", 16, "a network service has no port"),
        ("kernel://svc/a/b", 15, "an extra path segment"),
        ("kernel://svc/", 13, "no interface name after '/'"),
        ("kernel://svc/lo", 14, "'lo' is reserved"),
        ("kernel://svc/eth0", 14, "'eth0' is reserved"),
        ("kernel://svc/default", 14, "'default' is reserved"),
        ("kernel://svc/sixteen-letters-", 14, "the kernel allows 15"),
        ("kernel://svc/a.b", 14, "is not made of letters"),
        ("kernel://svc/nsm%201", 14, "is not made of letters"),
        ("kernel://Svc/a", 10, "is no network service name"),
        ("kernel://my_svc/a", 12, "is no network service name"),
        ("kernel://svc@Team/a", 14, "is no namespace"),
        ("kernel://svc@/a", 14, "is no namespace"),
        ("svc/a?x=1&x=2", 11, "label 'x' is given twice"),
        ("svc/a?x", 7, "is no label"),
        ("svc/a?=1", 7, "is no label"),
        ("svc/a?", 6, "is no label"),
        ("svc/a?x=1&", 10, "is no label"),
        ("svc/a?x=1;y=2", 10, "separates nothing"),
        ("svc/a?-x=1", 7, "is no label key"),
        ("svc/a b", 6, "blank or control character"),
        ("svc/a, other/a", 14, "interface 'a' is asked for twice (first in column 5)"),
    ],
)
def test_an_error_points_at_the_column_that_is_wrong(text, column, reason):
    with pytest.raises(AnnotationError) as caught:
        parse(text, namespace="default")

    assert reason in caught.value.reason
    assert caught.value.column == column
    assert caught.value.remedy
    assert caught.value.pointed().splitlines()[1] == " " * (column - 1) + "^"


@pytest.mark.parametrize(
    ("text", "column", "remedy"),
    [
        ("kernel://a kernel://b", 11, "put a comma between items"),
        ("kernel://a\nkernel://b", 11, "put a comma between items"),
        ("a kernel://b", 2, "put a comma between items"),
        ("kernel ://a", 7, "remove it, or put a comma between items"),
        ("kernel://a;", 11, "remove it"),
        ("kernel://a/b c", 13, "remove it, or put a comma between items"),
        ("a\nb", 2, "remove it, or put a comma between items"),
        ("kernel:/notes", 1, "write kernel://notes"),
        ("kernel:notes/a", 1, "write kernel://notes/a"),
        ("Kernel:/notes", 1, "write Kernel://notes"),
        ("kernel://a;kernel://b", 11, "write ','"),
        ("a/b;c/d", 4, "write ','"),
        ("a/b，c/d", 4, "write ','"),  # noqa: RUF001
        ("svc?x=1;y=2", 8, "join labels by '&', and items by ','"),
        ("kernel://a?x=1;kernel://b", 15, "write ','"),
        ('"kernel://a, kernel://b"', 1, "remove the quotes"),
        ("kernel://a?x='1'", 14, "remove the quotes"),
        ("“kernel://a”", 1, "remove the quotes"),
        ("svc?app=foo,version=1", 13, "write labels behind '?', with '&' between them"),
        ("notes.", 1, values.NETWORK_SERVICE_REMEDY),
        ("svc@-a", 5, values.NAMESPACE_REMEDY),
        ("svc@", 5, "name it, or remove the '@'"),
        ("svc?a b=1", 6, "remove it, or put a comma between items"),
        ("svc?-x=1", 5, values.LABEL_KEY_REMEDY),
        ("svc?x=-1", 7, values.LABEL_VALUE_REMEDY),
        ("vfio://svc", 1, "write kernel://, or leave it out"),
    ],
)
def test_the_remedy_taken_to_the_letter_mends_it(text, column, remedy):
    with pytest.raises(AnnotationError) as caught:
        parse(text, namespace="default")

    assert (caught.value.column, caught.value.remedy) == (column, remedy)


def test_repeats_of_a_network_service_get_names_of_their_own_whatever_their_labels():
    names = [
        item.interface for item in parse("a-service?v=1,a-service?v=2,a-service@x", namespace="x")
    ]

    assert len(set(names)) == 3
    assert names[0] == annotation.default_interface("a-service", "x")


def test_a_default_name_does_not_depend_on_labels_or_on_other_items():
    alone = parse("a-service", namespace="x")
    among = parse("b, a-service?v=1 ,c", namespace="x")

    assert alone[0].interface == among[1].interface


_NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
_INTERFACES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,14}", fullmatch=True).filter(
    lambda name: values.interface_problem(name) is None
)
_LABEL = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?", fullmatch=True)
_BLANK = st.text(" \t\n", max_size=2)


@given(
    st.lists(
        st.tuples(
            _NAMES,
            st.none() | _NAMES,
            _INTERFACES,
            st.dictionaries(_LABEL, _LABEL, max_size=3),
            st.sampled_from(["", "kernel://"]),
            _BLANK,
            _BLANK,
        ),
        max_size=4,
        unique_by=lambda item: item[2],
    )
)
def test_what_was_written_is_what_is_read(parts):
    texts = []
    for name, namespace, interface, labels, mechanism, before, after in parts:
        query = "&".join(f"{k}={v}" for k, v in labels.items())
        home = f"@{namespace}" if namespace else ""
        texts.append(
            f"{before}{mechanism}{name}{home}/{interface}{'?' if query else ''}{query}{after}"
        )

    items = parse(",".join(texts), namespace="default")

    assert [(i.network_service, i.namespace, i.interface, i.labels) for i in items] == [
        part[:4] for part in parts
    ]


@given(st.text(alphabet="ab/:@?&=,. %\n-_é\x00kernl", max_size=40))
def test_any_text_is_items_or_an_error_inside_it(text):
    try:
        items = parse(text, namespace="default")
    except AnnotationError as error:
        assert 1 <= error.column <= len(text) + 1
        assert error.reason
    else:
        names = [item.interface for item in items]
        assert len(set(names)) == len(names)
        assert all(values.interface_problem(name) is None for name in names)
        assert all(re.fullmatch(r"[a-z0-9.-]+", item.network_service) for item in items)
