"""Certificates are made, renewed and rotated in steps, and at no step does anybody meet one it does not trust."""

import base64
import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from services._runtime import certificates
from tools import install_certificates as subject
from tools.install_certificates import OVERLAP, Stored, install, names, planned
from tools.kube import InstallFailed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
WANTED = names("nsm-system")


def leaf_of(stored: Stored) -> certificates.Certificate:
    assert stored.leaf is not None
    return stored.leaf


def bundle(stored, now):
    return certificates.bundle(*(each.certificate for each in stored.authorities), now=now)


def test_a_new_cluster_gets_an_authority_and_a_certificate_for_every_name():
    made = planned(Stored(), WANTED, now=NOW)
    (authority,) = made.authorities
    assert certificates.issued_by(leaf_of(made).certificate, authority.certificate)
    for name in ("nats.nsm-system.svc", "*.nats-pods.nsm-system.svc", "127.0.0.1", "localhost"):
        assert certificates.covers(leaf_of(made).certificate, [name])


def test_what_is_not_due_stays_the_very_same():
    made = planned(Stored(), WANTED, now=NOW)
    for days in (0, 1, 2, 100, 200):
        assert planned(made, WANTED, now=NOW + days * DAY) is made


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left():
    made = planned(Stored(), WANTED, now=NOW)
    later = planned(made, WANTED, now=NOW + 250 * DAY)
    assert later.authorities == made.authorities
    assert later.leaf != made.leaf


@pytest.mark.parametrize("broken", ["key of another", "names of before", "no certificate at all"])
def test_a_certificate_of_no_use_is_made_anew(broken):
    made = planned(Stored(), WANTED, now=NOW)
    other = certificates.issue(made.authorities[0], ["old.example"], now=NOW)
    leaf = {
        "key of another": certificates.Certificate(
            certificate=leaf_of(made).certificate, key=other.key
        ),
        "names of before": other,
        "no certificate at all": certificates.Certificate(certificate=b"", key=b""),
    }[broken]
    again = planned(Stored(authorities=made.authorities, leaf=leaf), WANTED, now=NOW)
    assert certificates.belongs(leaf_of(again))
    assert certificates.covers(leaf_of(again).certificate, WANTED)


def test_a_new_authority_is_trusted_before_it_is_used_and_the_old_one_after():
    made = planned(Stored(), WANTED, now=NOW)
    old = made.authorities[0]
    told = planned(made, WANTED, now=NOW + DAY, rotate=True)
    assert told.authorities[1:] == (old,)
    assert told.leaf == made.leaf
    assert planned(told, WANTED, now=NOW + 1.5 * DAY) is told
    used = planned(told, WANTED, now=NOW + 2 * DAY)
    assert certificates.issued_by(leaf_of(used).certificate, told.authorities[0].certificate)
    assert used.authorities == told.authorities
    assert planned(used, WANTED, now=NOW + 2.5 * DAY) is used
    alone = planned(used, WANTED, now=NOW + 3 * DAY)
    assert alone.authorities == told.authorities[:1]
    assert alone.leaf == used.leaf


def test_each_night_takes_its_step_also_when_its_pod_starts_earlier_than_the_last_ones():
    """Asked for at 14:00, then 03:17 of three nights, each a minute less late than the one before."""
    made = planned(Stored(), WANTED, now=NOW)
    stored = planned(made, WANTED, now=NOW + 14 * HOUR, rotate=True)
    for night in (1, 2, 3):
        late = timedelta(minutes=4 - night)
        now = NOW + night * DAY + timedelta(hours=3, minutes=17) + late
        stored = planned(stored, WANTED, now=now)
    assert len(stored.authorities) == 1
    assert not set(stored.authorities) & set(made.authorities)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 100 * 24), st.booleans()), min_size=1, max_size=12))
def test_whenever_it_runs_nobody_meets_a_certificate_it_does_not_trust(runs):
    """Server and clients may each still hold what was told before the last run, within OVERLAP."""
    now = NOW
    stored = planned(Stored(), WANTED, now=now)
    past = [(now, stored)]
    for hours, rotate in runs:
        now += timedelta(hours=hours)
        stored = planned(stored, WANTED, now=now, rotate=rotate)
        past.append((now, stored))
        held = [past[-1][1]]
        # What was replaced less than OVERLAP ago may still be in use, and what this run replaced is.
        held += [
            before for (_, before), (ended, _) in itertools.pairwise(past) if now - ended < OVERLAP
        ]
        for server in held:
            for client in held:
                assert certificates.issued_by(leaf_of(server).certificate, bundle(client, now))


def stored_in(server):
    def decoded(name):
        data = server.objects[f"secrets/{name}"]["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}

    authorities = json.loads(decoded(subject.CA_SECRET)[subject.AUTHORITIES])
    return authorities, decoded(subject.TLS_SECRET)


def trusted(server):
    return server.objects[f"configmaps/{subject.CA_MAP}"]["data"][subject.CA].encode()


def test_secrets_and_what_everybody_trusts_are_made_where_there_are_none(server, api):
    said = install(api, now=NOW)
    assert said == [
        "Secret nsm-ca created",
        "ConfigMap nsm-ca created",
        "Secret nsm-nats-tls created",
    ]
    authorities, tls = stored_in(server)
    assert trusted(server) == tls["ca.crt"] == authorities[0]["certificate"].encode()
    assert server.objects["secrets/nsm-nats-tls"]["type"] == "kubernetes.io/tls"
    assert b"PRIVATE" not in trusted(server)


def test_a_second_run_changes_nothing(server, api):
    install(api, now=NOW)
    before = json.dumps(server.objects)
    assert install(api, now=NOW + 200 * DAY) == ["ConfigMap nsm-ca is as it should be"]
    assert json.dumps(server.objects) == before


def test_a_rotation_that_is_asked_for_goes_its_way_day_by_day_and_is_asked_for_once(server, api):
    install(api, now=NOW)
    old = trusted(server)
    ca = server.objects["secrets/nsm-ca"]
    ca["metadata"]["annotations"] = {subject.ROTATE: "now"}
    sizes = []
    for day in range(1, 6):
        install(api, now=NOW + day * DAY)
        sizes.append(len(x509.load_pem_x509_certificates(trusted(server))))
        _, tls = stored_in(server)
        assert tls["ca.crt"] == trusted(server)
    assert sizes == [2, 2, 1, 1, 1]
    assert trusted(server) != old
    assert not server.objects["secrets/nsm-ca"]["metadata"]["annotations"]


def test_of_two_runs_at_once_the_first_ones_authority_counts(server, api):
    install(api, now=NOW)
    first = dict(server.objects)
    server.objects.clear()
    server.before_create["secrets/nsm-ca"] = {"secrets/nsm-ca": first["secrets/nsm-ca"]}
    install(api, now=NOW)
    assert trusted(server) == first["configmaps/nsm-ca"]["data"]["ca.crt"].encode()
    _, tls = stored_in(server)
    assert certificates.issued_by(tls["tls.crt"], trusted(server))


def test_of_two_renewals_at_once_only_one_is_written(server, api):
    install(api, now=NOW)
    later = NOW + 300 * DAY
    before = json.loads(json.dumps(server.objects["secrets/nsm-nats-tls"]))
    install(api, now=later)
    faster = server.objects["secrets/nsm-nats-tls"]
    server.objects["secrets/nsm-nats-tls"] = before
    server.before_patch["secrets/nsm-nats-tls"] = faster
    assert install(api, now=later) == ["ConfigMap nsm-ca is as it should be"]
    assert server.objects["secrets/nsm-nats-tls"]["data"] == faster["data"]


def test_a_secret_that_cannot_be_read_is_not_guessed_around(server, api):
    server.keep("secrets/nsm-ca", {"metadata": {}, "data": {"other": ""}})
    with pytest.raises(InstallFailed, match="delete it"):
        install(api, now=NOW)
