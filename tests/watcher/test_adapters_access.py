"""Certificates, credentials and addresses that change under a running watcher, over real TLS."""

import asyncio
import base64
import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.api.kinds import PODS
from lab.api.server import LabApi
from lab.api.store import Store
from services._runtime.errors import Unavailable
from services.watcher import model
from services.watcher.adapters import Informer, Kube, Resource, access
from tests.watcher.builders import a_pod
from tests.watcher.conftest import running

_PEM = serialization.Encoding.PEM


class Authority:
    """Signs certificates."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        usage = x509.KeyUsage(
            **dict.fromkeys(_USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = builder.add_extension(usage, critical=True).add_extension(identifier, False)
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM)

    def issue(self, name: str) -> bytes:
        """A certificate for 127.0.0.1 and its key, in one text."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(_named(name), key)
            .add_extension(alternative, critical=False)
            .add_extension(signer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        secret = key.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(_PEM) + secret

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
        )


_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Secure:
    """The lab's API server behind TLS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store()
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self, authority: Authority, *, clients: Authority | None = None) -> None:
        """Where it was before, with a certificate of that authority; `clients` signs those that may come."""
        await self.stop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own = self.folder / "server.pem"
        own.write_bytes(authority.issue("server"))
        context.load_cert_chain(own)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=clients.pem.decode())
        app = LabApi(self.store).app
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def kubeconfig(self, authority: Authority, *, user: Any = None, inline: bool = False) -> Path:
        """Names a file of the authority, or has it within."""
        cluster = {"server": f"https://127.0.0.1:{self.port}"}
        if inline:
            cluster["certificate-authority-data"] = base64.b64encode(authority.pem).decode()
        else:
            path = self.folder / "ca.crt"
            path.write_bytes(authority.pem)
            cluster["certificate-authority"] = str(path)
        written = self.folder / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user or {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        written.write_text(json.dumps(config))
        return written


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    found = Secure(tmp_path)
    yield found
    await found.stop()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_LOOK_SECONDS", 0.0)


OLD, NEW = Authority("old"), Authority("new")
VERSION = "/version"


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():
            await asyncio.sleep(0.01)


def answers(kube: Kube) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        try:
            return b"gitVersion" in await kube.get(VERSION)
        except Unavailable:
            return False

    return asked


@pytest.mark.parametrize("inline", [False, True], ids=["file", "data"])
async def test_a_rotated_authority_is_believed_once_it_is_written_down_and_not_before(
    secure, inline
):
    await secure.start(OLD)
    async with Kube(str(secure.kubeconfig(OLD, inline=inline))) as kube:
        assert await kube.get(VERSION)
        await secure.start(NEW)
        for _ in range(3):
            with pytest.raises(Unavailable, match="certificate verify failed"):
                await kube.get(VERSION)
        secure.kubeconfig(NEW, inline=inline)
        await until(answers(kube))


async def test_a_rotated_client_certificate_is_shown(secure, tmp_path):
    own = tmp_path / "client.pem"
    user = {"client-certificate": str(own), "client-key": str(own)}
    own.write_bytes(OLD.issue("watcher"))
    await secure.start(OLD, clients=OLD)
    async with Kube(str(secure.kubeconfig(OLD, user=user))) as kube:
        assert await kube.get(VERSION)
        await secure.start(OLD, clients=NEW)
        assert not await answers(kube)()
        own.write_bytes(NEW.issue("watcher"))
        await until(answers(kube))


async def test_a_server_that_moved_is_found(secure):
    await secure.start(OLD)
    async with Kube(str(secure.kubeconfig(OLD))) as kube:
        assert await kube.get(VERSION)
        before, secure.port = secure.port, 0
        await secure.start(OLD)
        assert secure.port != before
        assert not await answers(kube)()
        secure.kubeconfig(OLD)
        await until(answers(kube))


async def test_half_a_kubeconfig_changes_nothing_and_the_whole_one_does(secure):
    await secure.start(OLD)
    async with Kube(str(secure.kubeconfig(OLD))) as kube:
        assert await kube.get(VERSION)
        await secure.start(NEW)
        for half in (b"", b"-----BEGIN CERTIFICATE-----\nMII"):
            (secure.folder / "ca.crt").write_bytes(half)
            assert not await answers(kube)()
        (secure.folder / "kubeconfig").write_text("{half a file")
        assert not await answers(kube)()
        secure.kubeconfig(NEW)
        await until(answers(kube))


async def test_an_informer_goes_on_where_it_was(secure):
    await secure.start(OLD)
    secure.store.create(PODS, a_pod("before"))
    async with Kube(str(secure.kubeconfig(OLD))) as kube:
        changed = asyncio.Event()
        resource = Resource(kind=model.Pod, path="/api/v1/pods")
        informer = Informer(kube, resource, lambda *_: changed.set(), backoff_seconds=(0.01, 0.05))
        async with running(informer.run()):
            await informer.synced.wait()
            await secure.start(NEW)
            changed.clear()
            secure.store.create(PODS, a_pod("after"))
            secure.kubeconfig(NEW)
            async with asyncio.timeout(10):
                await changed.wait()
            assert {name for _, name in informer.items} == {"before", "after"}
