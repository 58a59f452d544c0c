"""JSON in, messages out; what is not a message is named with its subject and reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import codec, intent
from schemas.codec import Malformed, Tombstone, decode, encode

REQUEST = intent.Request(
    pod=intent.PodRef(namespace="default", name="my-app", uid="u1", node="node1"),
    interface="nsm-1",
    network_service="vpn",
    labels={"b": "2", "a": "1"},
)


def test_a_message_survives_the_bus():
    key, message = decode(REQUEST.key.subject, encode(REQUEST))

    assert key == REQUEST.key
    assert message == REQUEST


def test_equal_messages_have_equal_bytes():
    import msgspec

    other = msgspec.structs.replace(REQUEST, labels={"a": "1", "b": "2"})
    assert encode(other) == encode(REQUEST)


def test_a_reader_of_today_understands_a_writer_of_tomorrow():
    data = encode(REQUEST)[:-1] + b',"new_field":{"x":1}}'

    assert decode(REQUEST.key.subject, data)[1] == REQUEST


def test_no_body_is_a_tombstone():
    assert decode(REQUEST.key.subject, b"")[1] == Tombstone()


def test_a_tombstone_says_whose_it_was():
    tombstone = Tombstone(released="u1", revision=3, addresses=("10.0.0.1/32",), vni=7)

    assert decode("nsm.connection.n.default.my-app.nsm-1", encode(tombstone))[1] == tombstone


def test_a_body_about_something_else_is_malformed():
    with pytest.raises(Malformed, match=r"the body is about RequestKey.*my-app"):
        decode("nsm.request.default.other.nsm-1", encode(REQUEST))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "malformed|truncated"),
        (b"[]", "Expected `object`"),
        (b'{"pod": 3}', "Expected `object`"),
        (b'{"interface": "x"}', "missing required field `pod`"),
        (b"\xff\xfe", "malformed"),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
        (b'{"released": 3}', "Expected `str`"),
    ],
)
def test_malformed_input_names_subject_and_reason(data, reason):
    with pytest.raises(Malformed, match=reason) as caught:
        decode(REQUEST.key.subject, data)
    assert caught.value.subject == REQUEST.key.subject


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoder(data):
    for subject in ("nsm.request.a.b.c", "nsm.status.n.a.b.c", "nsm.lease.ipam"):
        try:
            decode(subject, data)
        except Malformed as error:
            assert error.subject == subject


def test_every_kind_of_key_has_its_message():
    from schemas import subjects

    assert set(codec.MESSAGES) == set(subjects.KEYS.values())
