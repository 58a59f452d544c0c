"""Our own certificates: TLS with them works and fails as it must, and renewal is due in time."""

import ssl
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from services._runtime import certificates
from services._runtime.certificates import (
    Authority,
    BadCertificate,
    Certificate,
    bundle,
    issue,
    issued_by,
    new_authority,
    renewal_due,
)

NOW = datetime.now(UTC).replace(microsecond=0)
OLD = new_authority("nsm test", now=NOW)
NEW = new_authority("nsm test", now=NOW)
LEAF = issue(OLD, ["nats", "*.pods.example", "10.0.0.1", "2001:db8::1"], now=NOW)


def context(tmp_path, purpose, *, trust, shown=None):
    made = ssl.SSLContext(purpose)
    made.verify_flags |= ssl.VERIFY_X509_STRICT  # the default of newer Pythons
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=trust.decode())
    if shown is not None:
        for name, content in (("crt", shown.certificate), ("key", shown.key)):
            (tmp_path / name).write_bytes(content)
        made.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    return made


def handshake(tmp_path, *, server, client=None, trust, name="nats"):
    """Both ends check each other; raises what either of them finds wrong."""
    theirs = context(tmp_path, ssl.PROTOCOL_TLS_SERVER, trust=trust, shown=server)
    ours = context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, trust=trust, shown=client or server)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        ours.wrap_bio(down, up, server_hostname=name),
        theirs.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert all(end.version() for end in ends)


@pytest.mark.parametrize("name", ["nats", "server-1.pods.example", "10.0.0.1", "2001:db8::1"])
def test_a_certificate_serves_under_each_of_its_names_and_for_clients_too(tmp_path, name):
    handshake(tmp_path, server=LEAF, trust=OLD.certificate, name=name)


@pytest.mark.parametrize("name", ["other", "deep.er.pods.example", "10.0.0.2"])
def test_a_certificate_serves_under_no_other_name(tmp_path, name):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server=LEAF, trust=OLD.certificate, name=name)


def test_an_authority_of_the_same_name_is_another_one(tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server=LEAF, trust=NEW.certificate)


def test_while_both_authorities_are_trusted_their_certificates_go_together(tmp_path):
    both = bundle(NEW.certificate, OLD.certificate, now=NOW)
    handshake(tmp_path, server=LEAF, client=issue(NEW, ["c"], now=NOW), trust=both)
    handshake(tmp_path, server=issue(NEW, ["nats"], now=NOW), client=LEAF, trust=both)


def test_a_certificate_cannot_issue_others(tmp_path):
    forged = issue(Authority(certificate=LEAF.certificate, key=LEAF.key), ["nats"], now=NOW)
    chain = Certificate(certificate=forged.certificate + LEAF.certificate, key=forged.key)
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, server=chain, trust=OLD.certificate)


def test_an_ended_certificate_is_not_accepted(tmp_path):
    ended = issue(OLD, ["nats"], now=NOW - timedelta(days=2), days=1)
    assert renewal_due(ended.certificate, now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, server=ended, trust=OLD.certificate)


def test_the_first_of_a_bundle_issues():
    authority = Authority(
        certificate=bundle(NEW.certificate, OLD.certificate, now=NOW), key=NEW.key
    )
    leaf = issue(authority, ["nats"], now=NOW)
    assert issued_by(leaf.certificate, NEW.certificate)
    assert issued_by(leaf.certificate, authority.certificate)
    assert not issued_by(leaf.certificate, OLD.certificate)


@given(days=st.integers(2, 4000), age=st.floats(0, 1.2))
def test_renewal_is_due_when_a_third_of_the_life_is_left(days, age):
    authority = new_authority("nsm test", now=NOW)
    leaf = issue(authority, ["nats"], now=NOW, days=days).certificate
    made = x509.load_pem_x509_certificate(leaf)
    life = made.not_valid_after_utc - made.not_valid_before_utc
    assert made.not_valid_after_utc <= NOW + timedelta(days=certificates.AUTHORITY_DAYS)
    now = made.not_valid_before_utc + life * age
    assert renewal_due(leaf, now=now) == (made.not_valid_after_utc - now <= life / 3)


def test_a_new_authority_is_not_due_for_years_and_its_bundle_neither():
    ages = [NOW + timedelta(days=each) for each in (0, 2400, 2450, 3650, 9999)]
    due = [renewal_due(OLD.certificate, now=each) for each in ages]
    assert due == [False, False, True, True, True]
    assert all(before <= after for before, after in pairwise(due))
    young = new_authority("nsm test", now=NOW + timedelta(days=3000))
    both = bundle(young.certificate, OLD.certificate, now=NOW)
    assert not renewal_due(both, now=NOW + timedelta(days=3001))


@pytest.mark.parametrize("pem", [b"", b"nonsense", OLD.key])
def test_what_is_no_certificate_is_due_covers_nothing_and_is_of_nobody(pem):
    assert renewal_due(pem, now=NOW)
    assert not certificates.covers(pem, ["nats"])
    assert not issued_by(pem, OLD.certificate)
    assert not issued_by(LEAF.certificate, pem)


def test_a_certificate_made_by_a_clock_far_ahead_is_due_at_once():
    leaf = issue(OLD, ["nats"], now=NOW + timedelta(days=400)).certificate
    assert renewal_due(leaf, now=NOW)


def test_a_bundle_has_each_living_authority_once_newest_first():
    both = bundle(NEW.certificate, OLD.certificate, NEW.certificate, now=NOW)
    assert both == NEW.certificate + OLD.certificate
    assert bundle(both, now=NOW + timedelta(days=4000)) == b""


def test_the_end_is_told_of_the_first():
    assert certificates.ends(LEAF.certificate + OLD.certificate) == NOW + timedelta(days=90)


def test_covering_means_every_name_and_address():
    assert certificates.covers(LEAF.certificate, ["nats", "10.0.0.1", "2001:0db8:0::1"])
    assert not certificates.covers(LEAF.certificate, ["nats", "10.0.0.9"])
    assert not certificates.covers(OLD.certificate, ["nats"])


def test_halves_of_two_pairs_do_not_belong_together():
    assert certificates.belongs(LEAF)
    mixed = Authority(certificate=OLD.certificate, key=NEW.key)
    assert not certificates.belongs(mixed)
    with pytest.raises(BadCertificate, match="make both anew"):
        issue(mixed, ["nats"], now=NOW)


def test_an_ended_authority_issues_nothing_and_says_so():
    with pytest.raises(BadCertificate, match="CN=nsm test ended at"):
        issue(OLD, ["nats"], now=NOW + timedelta(days=3651))


def test_keys_are_never_shown():
    assert "KEY" not in repr(OLD) + repr(LEAF) + str(LEAF)


def test_a_name_longer_than_a_common_name_is_served(tmp_path):
    name = f"{'a' * 60}.{'b' * 60}.example"
    handshake(tmp_path, server=issue(OLD, [name], now=NOW), trust=OLD.certificate, name=name)
