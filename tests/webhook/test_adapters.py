"""What the API server answers becomes what can be done about it."""

import pytest

from services._kube import NoCluster, access
from services._runtime.errors import Conflict, Unavailable
from services.webhook.adapters import Denied, Kube
from tests.kube.secure import OLD, behind_tls, believes_a_new_authority
from tests.webhook.world import SECRETS, Api

PATH = f"{SECRETS}/one"
BODY = {"metadata": {"name": "one"}, "data": {"a": "b"}}


@pytest.fixture
async def api():
    async with Api().served() as api:
        yield api


async def test_what_is_there_is_read_and_replaced(api, tmp_path):
    async with Kube(api.kubeconfig(tmp_path)) as kube:
        assert await kube.read(PATH) is None
        api.put(PATH, BODY)
        found = await kube.read(PATH)
        assert found
        await kube.replace(PATH, {**found, "data": {"a": "c"}})
        after = await kube.read(PATH)
        assert after
        assert after["data"] == {"a": "c"}
    assert api.tokens == {"Bearer the-token"}


async def test_who_is_slower_is_told(api, tmp_path):
    async with Kube(api.kubeconfig(tmp_path)) as kube:
        api.put(PATH, BODY)
        found = await kube.read(PATH)
        assert found
        await kube.replace(PATH, found)
        with pytest.raises(Conflict):
            await kube.replace(PATH, found)
        del api.objects[PATH]
        with pytest.raises(Conflict, match="gone"):
            await kube.replace(PATH, found)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Denied),
        (401, Unavailable),
        (403, Denied),
        (422, Denied),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_who_can_help_is_in_the_kind_of_the_error(api, tmp_path, status, kind):
    api.statuses = [status]
    async with Kube(api.kubeconfig(tmp_path)) as kube:
        with pytest.raises(kind, match=f"GET {PATH}: {status} .*trouble"):
            await kube.read(PATH)


async def test_a_rotated_authority_of_the_api_server_needs_no_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(access, "_LOOK_SECONDS", 0.0)
    async with behind_tls(tmp_path) as secure, Kube(str(secure.kubeconfig(OLD))) as kube:
        await believes_a_new_authority(secure, lambda: kube.read("/version"))


async def test_an_api_server_that_is_not_there_is_unavailable(tmp_path):
    async with Api().served() as api:
        kubeconfig = api.kubeconfig(tmp_path)
    async with Kube(kubeconfig) as kube:
        with pytest.raises(Unavailable):
            await kube.read(PATH)


@pytest.mark.parametrize("kubeconfig", ["/nowhere", ""])
async def test_without_a_cluster_it_says_so(kubeconfig):
    with pytest.raises(NoCluster, match="name one that exists"):
        async with Kube(kubeconfig):
            pass
