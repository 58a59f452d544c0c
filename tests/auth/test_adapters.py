"""Auth's questions to the API server, over real TLS."""

from services._kube import access
from services.auth.adapters.kube import Kube
from tests.auth.world import TokenApi
from tests.kube.secure import OLD, behind_tls, believes_a_new_authority


async def test_after_a_rotation_of_the_api_servers_authority_tokens_are_reviewed_again(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(access, "_LOOK_SECONDS", 0.0)
    api = TokenApi()
    async with (
        behind_tls(tmp_path, api.application) as secure,
        Kube(str(secure.kubeconfig(OLD))) as kube,
    ):
        await believes_a_new_authority(secure, lambda: kube.review(api.token(), "nats.nsm"))
        assert await kube.public_keys()
