"""A nats-server with the accounts of identity, and who answers for tokens there: a table instead of Kubernetes."""

import asyncio
import base64
import json
import secrets
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from nats.aio.msg import Msg

from lab.nats import NatsServer, clear_ports, command
from lab.natsconfig import write_config
from services._runtime.access import Access
from services._runtime.client import Client
from services.auth import keyring
from services.auth.core import encoding
from services.auth.core.encoding import SERVER, USER
from services.auth.core.layout import NODE_ROLES
from services.auth.core.rights import rights as rights_of
from services.auth.model import Identity, Keys

_QUESTIONS = "$SYS.REQ.USER.AUTH"


class GuardedNats(NatsServer):
    """A nats-server that asks the responder who may come in."""

    def __init__(self, directory: Path, *, tls: bool = False) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.certificate = a_certificate(directory)
        self._tls = tls
        keyring.make(directory / "keys.json")
        self.keys = keyring.read(directory / "keys.json")

    def start(self) -> None:
        accounts = keyring.server_configuration(self.keys)
        config = write_config(self.directory, port=self.port, accounts=accounts)
        if self._tls:
            cert, key = str(self.certificate), str(self.certificate.with_name("key.pem"))
            with config.open("a") as file:
                file.write(f'tls {{ cert_file: "{cert}", key_file: "{key}" }}\n')
        clear_ports(self.directory)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command(config), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.port = self._wait_until_ready()


class Tokens:
    """Token files of roles, and how long a login with each token lasts."""

    def __init__(self, directory: Path) -> None:
        self.lives: dict[str, tuple[str, float]] = {}
        self._directory = directory

    def write(self, role: str, *, seconds: float = 600) -> Access:
        """A new token in the role's file; logins with it end `seconds` from now."""
        subject = f"system:serviceaccount:nsm-system:nsm-{role}"
        claims = base64.urlsafe_b64encode(json.dumps({"sub": subject}).encode()).decode()
        token = f"e30.{claims.rstrip('=')}.{secrets.token_hex(8)}"
        self.lives[token] = (role, time.time() + seconds)
        return self.put(role, token)

    def put(self, role: str, token: str) -> Access:
        path = self._directory / f"{role}.token"
        path.write_text(token + "\n")
        return Access.of(role, token_file=str(path))


class Responder:
    """Answers every question by the table; `logins` are the names that came in."""

    def __init__(self, keys: Keys, tokens: Tokens) -> None:
        self.logins: list[str] = []
        self._keys = keys
        self._tokens = tokens
        self._client = Client()

    async def start(self, server: GuardedNats) -> None:
        public = keyring.public(self._keys)["responder"]
        self._client._public_nkey = public

        def sign(nonce: str) -> bytes:
            signature = encoding.sign(USER, self._keys.responder, nonce.encode())
            return encoding._base64(signature)

        async def say_nothing(_error: Exception) -> None: ...

        await self._client.connect(
            server.url,
            tls=ssl.create_default_context(cafile=str(server.certificate)),
            name="auth-00000000",
            signature_cb=sign,
            reconnect_time_wait=0.02,  # type: ignore[arg-type]
            max_reconnect_attempts=-1,
            error_cb=say_nothing,
        )
        await self._client.subscribe(_QUESTIONS, cb=self._answer)
        await self._client.flush()

    async def stop(self) -> None:
        await self._client.close()

    async def _answer(self, message: Msg) -> None:
        xkey = (message.headers or {})["Nats-Server-Xkey"]
        claims = encoding.decode_jwt(SERVER, encoding.unseal(message.data, self._keys.xkey, xkey))[
            "nats"
        ]
        asked = claims["connect_opts"]
        role, ends = self._tokens.lives.get(asked.get("auth_token", ""), ("", 0.0))
        answer: dict[str, Any] = {"type": "authorization_response", "version": 2}
        if ends > time.time():
            self.logins.append(asked["name"])
            answer["jwt"] = self._user(role, asked["name"], claims["user_nkey"], int(ends))
        else:
            answer["error"] = "no such token"
        response = {
            "sub": claims["user_nkey"],
            "aud": claims["server_id"]["id"],
            "iat": int(time.time()),
            "nats": answer,
        }
        sealed = encoding.seal(
            encoding.encode_jwt(self._keys.issuer, response).encode(),
            self._keys.xkey,
            xkey,
            nonce=secrets.token_bytes(24),
        )
        await message.respond(sealed)

    def _user(self, role: str, name: str, nkey: str, expires: int) -> str:
        node = name.split("-")[1] if role in NODE_ROLES else ""
        rights = rights_of(Identity(role=role, node=node), name)
        claims = {
            "sub": nkey,
            "aud": rights.account,
            "name": role,
            "iat": int(time.time()),
            "exp": expires,
            "nats": {
                "pub": {"allow": rights.publish},
                "sub": {"allow": rights.subscribe},
                "subs": -1,
                "data": -1,
                "payload": -1,
                "type": "user",
                "version": 2,
            },
        }
        return encoding.encode_jwt(self._keys.issuer, claims)


def a_certificate(directory: Path) -> Path:
    """`cert.pem` of 127.0.0.1, its own authority, and `key.pem` beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = directory / "cert.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.with_name("key.pem").write_bytes(private)
    return path


@asynccontextmanager
async def answering(server: GuardedNats, tokens: Tokens) -> AsyncIterator[Responder]:
    """A responder that is there for the length of the block."""
    responder = Responder(server.keys, tokens)
    async with asyncio.timeout(30):
        await responder.start(server)
    try:
        yield responder
    finally:
        await responder.stop()
