"""The Secret over the years: what is served is trusted, by who read the configuration last and by who did before."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services._runtime import certificates
from services._runtime.certificates import Authority, Certificate
from services.webhook.service.material import SECRET, Material, of_secret, renewed, to_secret

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NAMES = ["webhook.nsm-system.svc"]
FIRST = renewed(None, NAMES, now=NOW)


@settings(max_examples=25, deadline=None)
@given(pauses=st.lists(st.integers(1, 25), min_size=8, max_size=12))
def test_what_is_served_is_trusted_by_who_looked_last_and_by_who_did_the_time_before(pauses):
    """Around the days when authority and leaf are due, in any order and both at once."""
    now = NOW + timedelta(days=2370)
    before = renewed(FIRST, NAMES, now=now)
    for days in pauses:
        now += timedelta(days=days)
        material = renewed(before, NAMES, now=now)
        for known in (before, material):
            assert certificates.issued_by(material.leaf.certificate, known.authority.certificate)
        assert now < certificates.ends(material.leaf.certificate)
        assert now < certificates.ends(material.authority.certificate)
        assert renewed(material, NAMES, now=now) is material
        before = material


def test_authority_and_leaf_that_are_due_at_once_are_no_gap():
    material = renewed(FIRST, NAMES, now=NOW + timedelta(days=2440))
    assert material.authority.certificate.endswith(FIRST.authority.certificate)
    assert material.authority != FIRST.authority
    assert certificates.issued_by(material.leaf.certificate, FIRST.authority.certificate)


def test_over_the_years_the_bundle_does_not_grow():
    material = FIRST
    for months in range(0, 40 * 12, 6):
        material = renewed(material, NAMES, now=NOW + timedelta(days=30 * months))
        assert material.authority.certificate.count(b"BEGIN") <= 2
    assert material.authority != FIRST.authority


def test_after_years_of_sleep_all_is_made_anew():
    late = renewed(FIRST, NAMES, now=NOW + timedelta(days=9999))
    assert late.authority.certificate.count(b"BEGIN") == 1
    assert certificates.issued_by(late.leaf.certificate, late.authority.certificate)


@pytest.mark.parametrize(
    "spoiled",
    [
        Material(authority=FIRST.authority, leaf=Certificate(certificate=b"", key=b"")),
        Material(
            authority=FIRST.authority,
            leaf=Certificate(certificate=FIRST.leaf.certificate, key=FIRST.authority.key),
        ),
        Material(
            authority=FIRST.authority,
            leaf=certificates.issue(FIRST.authority, ["another"], now=NOW),
        ),
        Material(
            authority=FIRST.authority,
            leaf=certificates.issue(certificates.new_authority("another", now=NOW), NAMES, now=NOW),
        ),
    ],
    ids=["no leaf", "another's key", "another's name", "another's authority"],
)
def test_a_leaf_that_cannot_be_served_is_issued_anew(spoiled):
    material = renewed(spoiled, NAMES, now=NOW)
    assert material.authority == FIRST.authority
    assert renewed(material, NAMES, now=NOW) is material


@pytest.mark.parametrize(
    "authority",
    [
        Authority(certificate=b"", key=b""),
        Authority(certificate=FIRST.authority.certificate, key=FIRST.leaf.key),
    ],
    ids=["none", "another's key"],
)
def test_an_authority_that_cannot_issue_is_replaced_with_what_it_issued(authority):
    material = renewed(Material(authority=authority, leaf=FIRST.leaf), NAMES, now=NOW)
    assert material.leaf != FIRST.leaf
    assert certificates.issued_by(material.leaf.certificate, material.authority.certificate)


def test_what_the_secret_holds_is_what_was_put_there():
    secret = to_secret(FIRST, {"metadata": {"name": SECRET}})
    assert of_secret(secret) == FIRST
    kept = {**secret, "metadata": {"resourceVersion": "7", "annotations": {"a": "b"}}, "data": {}}
    assert to_secret(FIRST, kept)["metadata"] == kept["metadata"]
    assert of_secret(to_secret(FIRST, kept)) == FIRST


@pytest.mark.parametrize("data", [None, {}, {"ca.crt": "x"}])
def test_a_secret_without_material_holds_none(data):
    assert of_secret({"data": data}) is None
    assert of_secret({}) is None
