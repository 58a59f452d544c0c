"""Encoding, identity, rights and configuration, decided without a server."""

import base64
import json
from pathlib import Path

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from services.auth import keyring
from services.auth.core import callout, encoding, identity, layout, offline
from services.auth.core.encoding import ACCOUNT, CURVE, SERVER, USER, BadEncoding
from services.auth.core.rights import rights
from services.auth.keyring import BadKeys
from services.auth.model import Denied, Identity, Keys
from services.auth.verbs import main

KINDS = st.sampled_from([ACCOUNT, USER, SERVER, CURVE])
SEEDS = st.binary(min_size=32, max_size=32)
LETTERS = {ACCOUNT: "A", USER: "U", SERVER: "N", CURVE: "X"}


@given(KINDS, SEEDS)
def test_a_key_reads_back_and_tells_its_kind(kind, raw):
    seed, public = encoding.encode_seed(kind, raw), encoding.encode_public(kind, raw)
    assert seed[:2] == "S" + LETTERS[kind]
    assert public[0] == LETTERS[kind]
    assert encoding.decode_seed(kind, seed) == raw
    assert encoding.decode_public(kind, public) == raw


@given(KINDS, SEEDS, st.integers(0, 55), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_a_mistyped_key_is_noticed(kind, raw, at, letter):
    public = encoding.encode_public(kind, raw)
    typo = public[:at] + letter + public[at + 1 :]
    if typo != public:
        with pytest.raises(BadEncoding):
            encoding.decode_public(kind, typo)


@given(KINDS, KINDS, SEEDS)
def test_a_key_of_another_kind_is_refused(kind, other, raw):
    if kind != other:
        with pytest.raises(BadEncoding):
            encoding.decode_public(other, encoding.encode_public(kind, raw))
        with pytest.raises(BadEncoding):
            encoding.decode_seed(other, encoding.encode_seed(kind, raw))


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_nonsense_is_bad_encoding_and_nothing_else(text):
    for read in (encoding.decode_public, encoding.decode_seed):
        with pytest.raises(BadEncoding):
            read(ACCOUNT, text)
    with pytest.raises(BadEncoding):
        encoding.decode_jwt(ACCOUNT, text.encode())


@given(SEEDS, st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53)))
def test_a_jwt_reads_back_and_a_changed_one_does_not(raw, claims):
    seed = encoding.encode_seed(ACCOUNT, raw)
    token = encoding.encode_jwt(seed, claims)
    told = encoding.decode_jwt(ACCOUNT, token.encode())
    assert told == {**claims, "iss": encoding.public_of(ACCOUNT, seed), "jti": told["jti"]}
    head, _, signature = token.split(".")
    other = (
        base64.urlsafe_b64encode(b'{"iss":"' + told["iss"].encode() + b'"}').decode().rstrip("=")
    )
    with pytest.raises(BadEncoding):
        encoding.decode_jwt(ACCOUNT, f"{head}.{other}.{signature}".encode())


def test_a_jwt_of_another_algorithm_is_refused():
    header = base64.urlsafe_b64encode(b'{"typ":"JWT","alg":"none"}').rstrip(b"=")
    with pytest.raises(BadEncoding, match="header"):
        encoding.decode_jwt(ACCOUNT, header + b".e30.")


@given(SEEDS, SEEDS, SEEDS, st.binary(), st.binary(min_size=24, max_size=24))
def test_only_who_it_was_sealed_for_reads_it(one, two, three, data, nonce):
    mine, yours, others = (encoding.encode_seed(CURVE, raw) for raw in (one, two, three))
    public = {seed: encoding.public_of(CURVE, seed) for seed in (mine, yours, others)}
    sealed = encoding.seal(data, mine, public[yours], nonce=nonce)
    assert encoding.unseal(sealed, yours, public[mine]) == data
    if public[others] not in (public[yours], public[mine]):
        with pytest.raises(BadEncoding):
            encoding.unseal(sealed, others, public[mine])
        with pytest.raises(BadEncoding):
            encoding.unseal(sealed, yours, public[others])


def test_known_nkeys_are_those_of_nats():
    # From the documentation of nkeys: this seed has this public key.
    seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
    assert encoding.public_of(USER, seed) == (
        "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
    )


@pytest.fixture
def keys() -> Keys:
    return Keys(
        issuer=encoding.encode_seed(ACCOUNT, b"i" * 32),
        responder=encoding.encode_seed(USER, b"r" * 32),
        xkey=encoding.encode_seed(CURVE, b"x" * 32),
    )


def sealed_question(keys: Keys, *, now: float, seed: bytes = b"n" * 32) -> bytes:
    asked = callout.ask(encoding.encode_seed(SERVER, seed), user="U", name="n", now=now)
    xkey = encoding.encode_seed(CURVE, b"s" * 32)
    return encoding.seal(asked, xkey, encoding.public_of(CURVE, keys.xkey), nonce=b"0" * 24)


def test_a_question_reads_back_and_an_old_or_open_one_is_refused(keys):
    server_xkey = encoding.public_of(CURVE, encoding.encode_seed(CURVE, b"s" * 32))
    data = sealed_question(keys, now=100)
    question = callout.read_question(data, keys, server_xkey=server_xkey, now=105)
    assert (question.name, question.token) == ("n", "")
    with pytest.raises(BadEncoding, match="too old"):
        callout.read_question(data, keys, server_xkey=server_xkey, now=200)
    with pytest.raises(BadEncoding, match="not sealed"):
        callout.read_question(data, keys, server_xkey="", now=105)


A_NODE = Identity(role="plumber", node="node1.example", expires=1)


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("plumber-node1_example-0123abcd", True),
        ("plumber-node1.example-0123abcd", False),
        ("plumber-node1_example-0123ABCD", False),
        ("plumber-node1_example-0123abc", False),
        ("plumber-node1_example-", False),
        ("plumber-node1-0123abcd", False),
        ("plumber-0123abcd", False),
        ("dns-node1_example-0123abcd", False),
        ("plumber-node1_example-x-0123abcd", False),
        ("plumber-node1_example-0123abcd\n", False),
        ("plumber-*-0123abcd", False),
        ("plumber->-0123abcd", False),
        ("", False),
    ],
)
def test_a_connection_is_called_after_role_and_node(name, fits):
    assert (identity.name_problem(A_NODE, name) is None) == fits


@given(st.text(max_size=40))
def test_whatever_fits_names_one_token_of_a_subject(name):
    if identity.name_problem(Identity(role="ipam"), name) is None:
        assert not set(name) & set(".*> \t\r\n")


@pytest.mark.parametrize("node", ["", "*", ">", "Node1", "a b", "a..b", "x" * 254, "node_1"])
def test_a_node_role_needs_a_real_nodes_name(node):
    body = {"authenticated": True, "audiences": ["nats.nsm"]}
    extra = {"authentication.kubernetes.io/node-name": [node]}
    user = {"username": "system:serviceaccount:nsm-system:nsm-dns", "extra": extra}
    review = msgspec.json.encode({"status": {**body, "user": user}})
    verdict = identity.from_review(review, namespace="nsm-system", audience="nats.nsm", expires=1)
    assert isinstance(verdict, Denied)
    assert verdict.reason == "NoNode"


@pytest.mark.parametrize("role", sorted(layout.ROLE_ACCOUNTS))
def test_no_right_of_a_node_names_another_one(role):
    node = "node1" if role in layout.NODE_ROLES else ""
    name = f"{role}-{node}-0123abcd" if node else f"{role}-0123abcd"
    found = rights(Identity(role=role, node=node), name)
    assert f"{layout.INBOXES[found.account]}.{name}.>" in found.subscribe
    assert len(set(found.publish)) == len(found.publish)
    if node:
        for subject in (*found.publish, *found.subscribe):
            common = subject == "$SYS.REQ.USER.INFO" or subject.endswith("nsm.leader.ipam.guard")
            assert common or node in subject
        assert len(found.subscribe) == 1


def test_rights_fit_into_an_answer():
    longest = Identity(role="plumber", node="n" * 253, expires=1)
    found = rights(longest, f"plumber-{longest.node}-0123abcd")
    assert sum(map(len, found.publish)) < 200_000  # a message may have 1 MiB


def offline_token(
    key: ec.EllipticCurvePrivateKey, algorithm: str = "ES256", **claims: object
) -> str:
    body = {"iss": "i", "aud": ["a"], "sub": "s", "exp": 200, "nbf": 100}
    return jwt.encode({**body, **claims}, key, algorithm=algorithm, headers={"kid": "k"})


@pytest.mark.parametrize(
    ("claims", "now", "reason"),
    [
        ({}, 150, ""),
        ({}, 96, ""),
        ({}, 90, "TokenInvalid"),
        ({}, 200, "TokenExpired"),
        ({"iss": "other"}, 150, "TokenInvalid"),
        ({"exp": "soon"}, 150, "TokenInvalid"),
        ({"nbf": [1]}, 150, "TokenInvalid"),
    ],
)
def test_a_token_is_checked_without_the_api_server(claims, now, reason):
    key = ec.generate_private_key(ec.SECP256R1())
    public = {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "k"}
    keys = offline.read_keys(json.dumps({"keys": [public]}).encode())
    verdict = offline.verify(offline_token(key, **claims), keys, issuer="i", now=now)
    assert (verdict.reason if isinstance(verdict, Denied) else "") == reason


def test_a_token_signed_with_a_shared_secret_or_not_at_all_is_refused():
    for token in (
        jwt.encode({"exp": 1}, "s" * 32, algorithm="HS256", headers={"kid": "k"}),
        jwt.encode({"exp": 1}, "", algorithm="none", headers={"kid": "k"}),
    ):
        key = jwt.PyJWK(
            ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
        )
        verdict = offline.verify(token, {"k": key}, issuer="i", now=0)
        assert isinstance(verdict, Denied)


def test_expiry_is_read_from_what_is_a_token_only():
    assert offline.expiry(jwt.encode({"exp": 12}, "s" * 32)) == 12
    assert offline.expiry("x.y.z") == 0


@pytest.mark.parametrize(
    ("audience", "is_for_others"),
    [("b", True), (["b", "c"], True), ("a", False), (["b", "a"], False), ([], False), (5, False)],
    ids=str,
)
def test_a_token_that_says_it_is_for_others_is_known(audience, is_for_others):
    token = jwt.encode({"aud": audience}, "s" * 32)
    assert offline.is_for_others(token, "a") == is_for_others
    assert not offline.is_for_others("x.y.z", "a")


def test_keys_are_made_once_for_their_owner_alone(tmp_path: Path):
    path = tmp_path / "keys.json"
    assert main(["keys", str(path)]) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert "exists" in str(main(["keys", str(path)]))
    assert path.read_bytes() == before
    assert "seed" not in repr(keyring.read(path)).lower()


def test_the_configuration_holds_no_secret(tmp_path: Path, capsys):
    path = tmp_path / "keys.json"
    keyring.make(path)
    assert main(["config", str(path)]) == 0
    printed, keys = capsys.readouterr().out, keyring.read(path)
    for seed in (keys.issuer, keys.responder, keys.xkey):
        assert seed not in printed
    for public in keyring.public(keys).values():
        assert public in printed
    assert printed.endswith("\n")


@pytest.mark.parametrize("text", ["", "{}", '{"issuer":"a","responder":"b","xkey":"c"}'])
def test_a_bad_keys_file_names_itself_and_the_remedy(tmp_path: Path, text: str):
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(BadKeys, match=r"keys\.json.*services\.auth keys"):
        keyring.read(path)
    with pytest.raises(BadKeys, match="No such file"):
        keyring.read(tmp_path / "none")
