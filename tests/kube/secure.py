"""An API server behind TLS, whose certificates are signed by whom a test likes."""

import asyncio
import base64
import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.api.listening import Listener
from lab.api.server import LabApi
from lab.api.store import Store
from services._runtime.errors import Unavailable

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
    """An API server behind TLS: the lab's, unless `app` makes another one."""

    def __init__(self, folder: Path, app: Callable[[], web.Application] | None = None) -> None:
        self.folder = folder
        self.store = Store()
        self._app = app or (lambda: LabApi(self.store).app)
        self.port = 0
        self._listener: Listener | None = None

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
        self._listener = await Listener.open(
            self._app(), port=self.port, ssl_context=context, shutdown_timeout=0.1
        )
        self.port = self._listener.port

    async def stop(self) -> None:
        if self._listener is not None:
            await self._listener.close()
            self._listener = None

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


OLD, NEW = Authority("old"), Authority("new")


@asynccontextmanager
async def behind_tls(
    folder: Path, app: Callable[[], web.Application] | None = None
) -> AsyncIterator[Secure]:
    """Signed by OLD."""
    found = Secure(folder, app)
    await found.start(OLD)
    try:
        yield found
    finally:
        await found.stop()


async def believes_a_new_authority(secure: Secure, ask: Callable[[], Awaitable[object]]) -> None:
    """Who asked a server of OLD goes on with one of NEW once that is written down, and not before."""
    assert await ask()
    await secure.start(NEW)
    for _ in range(3):
        try:
            await ask()
        except Unavailable as exc:
            assert "certificate verify failed" in str(exc)
        else:
            raise AssertionError("a strange authority was believed")
    secure.kubeconfig(NEW)
    await until(answers(ask))


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.01)


def answers(ask: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        try:
            return bool(await ask())
        except Unavailable:
            return False

    return asked
