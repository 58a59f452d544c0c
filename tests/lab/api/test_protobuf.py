"""The protobuf bodies of `kubectl create`: read like the JSON they mean, refused when they are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.api.errors import ApiError
from lab.api.protobuf import decode


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(kind, raw):
    meta = field(1, "v1") + field(2, kind)
    return b"k8s\x00" + field(1, meta) + field(2, raw) + field(3, "") + field(4, "")


def entry(key, value):
    return field(1, key) + field(2, value)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.text("abc", min_size=1), st.dictionaries(words, words), st.dictionaries(words, words))
def test_a_config_map_is_read_whatever_its_words_are(name, data, labels):
    metadata = field(1, name) + b"".join(field(11, entry(k, v)) for k, v in labels.items())
    raw = field(1, metadata) + b"".join(field(2, entry(k, v)) for k, v in data.items())

    read = decode(envelope("ConfigMap", raw))

    assert read["metadata"] == {"name": name} | ({"labels": labels} if labels else {})
    assert read.get("data", {}) == data
    assert (read["apiVersion"], read["kind"]) == ("v1", "ConfigMap")


def test_a_service_keeps_named_and_numbered_target_ports():
    ports = [
        field(2, "TCP") + field(3, 80) + field(4, field(1, 0) + field(2, 8080) + field(3, "")),
        field(3, 53) + field(4, field(1, 1) + field(2, 0) + field(3, "dns")),
    ]
    raw = field(1, field(1, "web")) + field(2, b"".join(field(1, port) for port in ports))
    assert decode(envelope("Service", raw))["spec"]["ports"] == [
        {"protocol": "TCP", "port": 80, "targetPort": 8080},
        {"port": 53, "targetPort": "dns"},
    ]


def test_unknown_fields_are_skipped():
    raw = field(1, field(1, "a") + field(99, 5)) + varint(50 << 3 | 1) + b"8 bytes."
    assert decode(envelope("Namespace", raw))["metadata"] == {"name": "a"}


@given(st.binary(max_size=60))
def test_no_bytes_whatever_do_more_than_a_bad_request(data):
    for body in (data, b"k8s\x00" + data, envelope("ConfigMap", data)):
        try:
            decode(body)
        except ApiError as error:
            assert error.code == 400


def test_a_kind_that_is_not_read_is_named():
    with pytest.raises(ApiError, match="Pod is not read as protobuf"):
        decode(envelope("Pod", b""))


def test_a_token_request_keeps_audiences_time_and_what_it_is_bound_to():
    bound = field(1, "Pod") + field(2, "v1") + field(3, "web") + field(4, "uid")
    spec = field(1, "a") + field(1, "b") + field(3, bound) + field(4, 900)
    assert decode(envelope("TokenRequest", field(1, b"") + field(2, spec)))["spec"] == {
        "audiences": ["a", "b"],
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": "uid"},
        "expirationSeconds": 900,
    }
