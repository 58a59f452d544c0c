"""Conversations: API server asks over TLS, trusting what the configuration says; certificates need no hand."""

import asyncio
import base64
import json
from datetime import timedelta

import aiohttp
import pytest
from structlog.testing import capture_logs

from schemas.annotation import ANNOTATION, CONDITION
from services._runtime import certificates
from services.webhook.service.material import SECRET
from services.webhook.service.trust import CONFIGURATION_PATH
from tests.runtime.helpers import until
from tests.webhook.world import SECRETS, Api, a_configuration, an_empty_secret, replicas

POD = {"metadata": {"generateName": "app-", "annotations": {ANNOTATION: "vpn"}}, "spec": {}}
GATE = [
    {"op": "add", "path": "/spec/readinessGates", "value": [{"conditionType": CONDITION}]},
]


@pytest.fixture
async def api():
    async with Api().served() as api:
        api.put(CONFIGURATION_PATH, a_configuration())
        api.put(f"{SECRETS}/{SECRET}", an_empty_secret())
        yield api


def patch_of(response):
    assert response["allowed"] is True
    if "patch" not in response:
        return None
    assert response["patchType"] == "JSONPatch"
    return json.loads(base64.b64decode(response["patch"]))


async def test_the_api_server_asks_and_the_pod_gets_its_gate(api, tmp_path):
    async with replicas(api, tmp_path) as (webhook,):
        assert patch_of(await api.admit(webhook.port, POD)) == GATE
        assert patch_of(await api.admit(webhook.port, {"metadata": {}, "spec": {}})) is None
        assert webhook.figure("nsm_webhook_reviews_total", outcome="gated") == 1
        assert webhook.figure("nsm_webhook_reviews_total", outcome="unchanged") == 1
        assert webhook.figure("nsm_webhook_review_seconds_count") == 2


async def test_a_malformed_annotation_is_let_in_with_a_warning(api, tmp_path):
    pod = {"metadata": {"name": "p", "annotations": {ANNOTATION: "vpn:53"}}, "spec": {}}
    async with replicas(api, tmp_path) as (webhook,):
        response = await api.admit(webhook.port, pod)
        assert patch_of(response) == GATE
        (warning,) = response["warnings"]
        assert "column 4" in warning
        assert "remove ':' and the port" in warning
        assert webhook.figure("nsm_webhook_reviews_total", outcome="warned") == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"{}",
        b'{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "u"}}',
        b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": 7}}',
    ],
)
async def test_what_cannot_be_read_is_no_answer_which_lets_the_pod_in(api, tmp_path, body):
    async with replicas(api, tmp_path) as (webhook,):
        status, said = await api.ask(webhook.port, body)
        assert status == 400
        assert said["error"]
        assert webhook.figure("nsm_webhook_reviews_total", outcome="malformed") == 1
        assert patch_of(await api.admit(webhook.port, POD)) == GATE


async def test_a_pod_as_large_as_the_api_server_takes_is_read(api, tmp_path):
    annotations = {ANNOTATION: "vpn", "large": "x" * 3 * 2**20}
    async with replicas(api, tmp_path) as (webhook,):
        response = await api.admit(webhook.port, {"metadata": {"annotations": annotations}})
        assert patch_of(response) == GATE


async def test_replicas_that_start_together_serve_one_authority(api, tmp_path):
    async with replicas(api, tmp_path, 5) as started:
        for each in started:
            assert patch_of(await api.admit(each.port, POD)) == GATE
    assert api.writes.count(f"PUT {SECRETS}/{SECRET}") == 1
    assert api.writes.count(f"PUT {CONFIGURATION_PATH}") == 1


async def test_nothing_is_written_again_by_whoever_starts_later(api, tmp_path):
    async with replicas(api, tmp_path):
        pass
    api.writes.clear()
    async with replicas(api, tmp_path, 2) as started:
        for each in started:
            assert patch_of(await api.admit(each.port, POD)) == GATE
    assert api.writes == []


async def test_the_configuration_stays_the_users_but_for_the_authority(api, tmp_path):
    async with replicas(api, tmp_path):
        found = api.objects[CONFIGURATION_PATH]
        del found["metadata"]["resourceVersion"]
        del found["webhooks"][0]["clientConfig"]["caBundle"]
        assert found == a_configuration()


async def test_a_renewed_certificate_is_served_by_every_replica_without_a_restart(api, tmp_path):
    async with replicas(api, tmp_path, 2) as started:
        first, authority = api.leaf(), api.trusted
        for each in started:
            each.now += timedelta(days=61)
        await until(lambda: api.leaf() != first)
        ends = certificates.ends(api.leaf()).timestamp()
        name = "nsm_webhook_certificate_ends_seconds"
        await until(lambda: all(each.figure(name) == ends for each in started))
        assert api.trusted == authority
        assert not certificates.renewal_due(api.leaf(), now=started[0].now)


async def test_an_authority_is_made_known_before_it_issues(api, tmp_path):
    async with replicas(api, tmp_path, 2) as started:
        old, leaf = api.trusted, api.leaf()
        # The leaf is renewed on the way, so that only the authority is due at the end.
        for days in (2400, 40):
            for each in started:
                each.now += timedelta(days=days)
            await until(lambda: not certificates.renewal_due(api.leaf(), now=started[0].now))
        await until(lambda: api.trusted != old)
        assert api.trusted.endswith(old)
        assert api.trusted.count(b"BEGIN") == 2
        assert certificates.issued_by(api.leaf(), old)
        assert api.leaf() != leaf


async def test_an_emptied_secret_is_filled_anew_and_trusted(api, tmp_path):
    async with replicas(api, tmp_path, 2) as started:
        old = api.trusted
        for each in started:
            each.now += timedelta(minutes=30)  # told apart by the end of its certificate
        api.put(f"{SECRETS}/{SECRET}", an_empty_secret())
        await until(lambda: "data" in api.secret and api.trusted != old)
        ends = certificates.ends(api.leaf()).timestamp()
        for each in started:
            await until(
                lambda: all(
                    each.figure("nsm_webhook_certificate_ends_seconds") == ends for each in started
                )
            )
            assert patch_of(await api.admit(each.port, POD)) == GATE


async def test_a_secret_that_is_not_there_is_waited_for_and_never_made(api, tmp_path):
    """Who may create Secrets may have one filled with the token of any ServiceAccount."""
    del api.objects[f"{SECRETS}/{SECRET}"]
    with capture_logs() as logs:
        async with replicas(api, tmp_path, ready=False) as (webhook,):
            await until(lambda: any("remedy" in each for each in logs))
            api.put(f"{SECRETS}/{SECRET}", an_empty_secret())
            await until(lambda: webhook.health.ready)
            assert patch_of(await api.admit(webhook.port, POD)) == GATE
    told = [each for each in logs if "remedy" in each]
    assert [each["reason"] for each in told] == [f"there is no Secret {SECRET}"]
    assert not [each for each in api.writes if each.startswith("POST")]


async def test_a_secret_that_makes_no_sense_is_replaced(api, tmp_path):
    data = {"ca.crt": "bm9uc2Vuc2U=", "ca.key": "", "tls.crt": "!", "tls.key": ""}
    api.put(f"{SECRETS}/{SECRET}", {"metadata": {"name": SECRET}, "data": data})
    async with replicas(api, tmp_path) as (webhook,):
        assert patch_of(await api.admit(webhook.port, POD)) == GATE


async def test_a_configuration_that_was_applied_anew_is_told_whom_to_trust(api, tmp_path):
    async with replicas(api, tmp_path) as (webhook,):
        trusted = api.trusted
        api.put(CONFIGURATION_PATH, a_configuration())
        await until(lambda: api.trusted == trusted)
        assert patch_of(await api.admit(webhook.port, POD)) == GATE


async def test_without_its_configuration_it_serves_and_says_what_it_waits_for(api, tmp_path):
    del api.objects[CONFIGURATION_PATH]
    async with replicas(api, tmp_path, ready=False) as (webhook,):
        await until(lambda: webhook.port != 0)
        assert webhook.health.awaited == ["MutatingWebhookConfiguration trusts us"]
        api.put(CONFIGURATION_PATH, a_configuration())
        await until(lambda: webhook.health.ready)


@pytest.mark.parametrize("status", [401, 403, 409, 429, 500, 503])
async def test_an_api_server_in_trouble_is_asked_again(api, tmp_path, status):
    api.statuses = [status] * 3
    async with replicas(api, tmp_path) as (webhook,):
        assert api.statuses == []
        assert patch_of(await api.admit(webhook.port, POD)) == GATE


async def test_while_the_api_server_is_away_what_is_served_goes_on(api, tmp_path):
    async with replicas(api, tmp_path) as (webhook,):
        api.statuses = [503] * 1000
        await until(lambda: len(api.statuses) < 999)
        assert patch_of(await api.admit(webhook.port, POD)) == GATE
        assert webhook.health.ready


@pytest.mark.parametrize("status", [403, 503])
async def test_a_trouble_is_told_once_and_so_is_its_end(api, tmp_path, status):
    async with replicas(api, tmp_path) as (webhook,):
        with capture_logs() as logs:
            api.statuses = [status] * 3
            await until(lambda: "the API server answers again" in [e["event"] for e in logs])
    assert webhook.health.ready
    (told,) = [each for each in logs if "remedy" in each]
    assert f": {status} " in told["reason"]


async def test_further_names_are_served(api, tmp_path):
    async with replicas(api, tmp_path, names="127.0.0.1, hook.example ,") as (webhook,):
        for name in ("127.0.0.1", "hook.example", "webhook.nsm-system.svc"):
            assert patch_of(await api.admit(webhook.port, POD, name=name)) == GATE
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await api.admit(webhook.port, POD, name="another.example")


async def test_a_name_that_is_added_later_is_served_after_a_restart(api, tmp_path):
    async with replicas(api, tmp_path):
        authority = api.trusted
    async with replicas(api, tmp_path, names="hook.example") as (webhook,):
        assert patch_of(await api.admit(webhook.port, POD, name="hook.example")) == GATE
        assert api.trusted == authority


async def test_many_ask_at_once(api, tmp_path):
    async with replicas(api, tmp_path) as (webhook,):
        asked = (api.admit(webhook.port, POD) for _ in range(50))
        for response in await asyncio.gather(*asked):
            assert patch_of(response) == GATE
