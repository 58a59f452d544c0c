"""ServiceAccount tokens: what is in them, and when they are good no more."""

import datetime as dt
from typing import Any

import aiohttp
import jwt
import pytest

from lab.api.errors import ApiError
from lab.api.identity import ISSUER, Issuer
from lab.api.kinds import NODES, PODS, SERVICE_ACCOUNTS
from lab.api.store import Store
from tests.lab.api.builders import a_pod

AUDIENCE = "nats.nsm"
EXTRA = "authentication.kubernetes.io"


class Clock:
    def __init__(self) -> None:
        self.now = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    store = Store(clock=clock)
    store.create(NODES, {"metadata": {"name": "node1"}})
    store.create(SERVICE_ACCOUNTS, {"metadata": {"name": "nsm-dns", "namespace": "nsm-system"}})
    pod = a_pod("dns-1", namespace="nsm-system")
    pod["spec"] |= {"serviceAccountName": "nsm-dns", "nodeName": "node1"}
    store.create(PODS, pod)
    return store


@pytest.fixture
def issuer(store):
    return Issuer(store)


@pytest.fixture
def token(issuer):
    return issuer.issue(
        "nsm-system", "nsm-dns", audiences=[AUDIENCE], seconds=600, pod="dns-1"
    ).token


def review(issuer: Issuer, token: str, *audiences: str) -> dict[str, Any]:
    body = {"spec": {"token": token, "audiences": list(audiences) or [AUDIENCE]}}
    return dict(issuer.review(body)["status"])


def test_a_token_says_account_pod_and_node_by_uid(issuer, token, store):
    status = review(issuer, token)
    assert (status["authenticated"], status["audiences"]) == (True, [AUDIENCE])
    assert status["user"]["username"] == "system:serviceaccount:nsm-system:nsm-dns"
    extra = status["user"]["extra"]
    pod = store.get(PODS, "nsm-system", "dns-1")["metadata"]["uid"]
    assert extra[f"{EXTRA}/pod-name"] == ["dns-1"]
    assert extra[f"{EXTRA}/pod-uid"] == [pod]
    assert extra[f"{EXTRA}/node-name"] == ["node1"]


def test_a_token_can_be_checked_with_the_published_key_alone(issuer, token):
    key = jwt.PyJWKSet.from_dict(issuer.jwks())["lab"]
    claims = jwt.decode(
        token,
        key.key,
        algorithms=[key.algorithm_name],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )
    assert claims["sub"] == "system:serviceaccount:nsm-system:nsm-dns"
    assert claims["exp"] - claims["iat"] == 600
    assert set(claims["kubernetes.io"]) == {"namespace", "serviceaccount", "pod", "node"}


def test_a_token_ends_with_its_time(issuer, token, clock):
    clock.now += dt.timedelta(seconds=599)
    assert review(issuer, token)["authenticated"]
    clock.now += dt.timedelta(seconds=1)
    assert "expired" in review(issuer, token)["error"]


@pytest.mark.parametrize("audience", ["other", ISSUER])
def test_a_token_is_for_its_audience_only(issuer, token, audience):
    assert "audiences" in review(issuer, token, audience)["error"]


@pytest.mark.parametrize("again", [False, True], ids=["gone", "another of its name"])
def test_a_token_ends_with_its_pod(issuer, token, store, again):
    store.delete(PODS, "nsm-system", "dns-1", grace_seconds=0)
    if again:
        pod = a_pod("dns-1", namespace="nsm-system")
        pod["spec"] |= {"serviceAccountName": "nsm-dns", "nodeName": "node1"}
        store.create(PODS, pod)
    assert "pod dns-1 has been deleted" in review(issuer, token)["error"]


def test_a_token_ends_with_its_account(issuer, token, store):
    store.delete(SERVICE_ACCOUNTS, "nsm-system", "nsm-dns")
    assert "serviceaccount nsm-dns has been deleted" in review(issuer, token)["error"]


@pytest.mark.parametrize("form", ["", "x", "a.b.c"])
def test_what_is_no_token_is_not_authenticated(issuer, form):
    assert "authenticated" not in review(issuer, form)


def test_a_token_of_another_server_is_not_authenticated(issuer, store):
    foreign = Issuer(store).issue("nsm-system", "nsm-dns", audiences=[AUDIENCE]).token
    assert "authenticated" not in review(issuer, foreign)


def test_a_pod_gets_only_tokens_of_its_own_account(issuer):
    with pytest.raises(ApiError, match="different"):
        issuer.issue("nsm-system", "default", pod="dns-1")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"expirationSeconds": 599}, "Invalid"),
        ({"expirationSeconds": "x"}, "Invalid"),
        ({"audiences": [1]}, "BadRequest"),
        ({"boundObjectRef": {"kind": "Pod", "name": "nope"}}, "NotFound"),
        ({"boundObjectRef": {"kind": "Pod", "name": "dns-1", "uid": "other"}}, "Conflict"),
        ({"boundObjectRef": {"kind": "Secret", "name": "x"}}, "BadRequest"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(issuer, spec, reason):
    with pytest.raises(ApiError) as caught:
        issuer.request("nsm-system", "nsm-dns", {"spec": spec})
    assert caught.value.reason == reason


async def test_over_http_tokens_are_asked_for_and_reviewed_where_kubernetes_has_it(api):
    account = {"metadata": {"name": "nsm-ipam", "namespace": "nsm-system"}}
    api.store.create(SERVICE_ACCOUNTS, account)
    place = "/api/v1/namespaces/nsm-system/serviceaccounts/nsm-ipam/token"
    async with aiohttp.ClientSession(api.url) as session:
        async with session.post(place, json={"spec": {"audiences": [AUDIENCE]}}) as response:
            assert response.status == 201
            asked = await response.json()
        token = asked["status"]["token"]
        body = {"spec": {"token": token, "audiences": [AUDIENCE]}}
        async with session.post("/apis/authentication.k8s.io/v1/tokenreviews", json=body) as done:
            assert done.status == 201
            assert (await done.json())["status"]["authenticated"]
        async with session.get("/.well-known/openid-configuration") as response:
            assert (await response.json())["issuer"] == ISSUER
        async with session.get("/openid/v1/jwks") as response:
            assert (await response.json())["keys"][0]["kid"]
        async with session.get(place) as response:
            assert response.status == 405
        async with session.get("/apis") as response:
            groups = [group["name"] for group in (await response.json())["groups"]]
        async with session.get("/apis/authentication.k8s.io/v1") as response:
            resources = await response.json()
    assert "authentication.k8s.io" in groups
    assert [resource["name"] for resource in resources["resources"]] == ["tokenreviews"]
