"""A cluster's token side in one place: an API server that answers TokenReview and JWKS as Kubernetes does, a real
nats-server with the generated configuration, and auth between them."""

import asyncio
import secrets
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from lab.api.listening import Listener
from lab.nats import NatsServer, clear_ports, command
from lab.natsconfig import write_config
from services._runtime.access import Access
from services._runtime.bus import Bus
from services._runtime.client import Client
from services._runtime.health import Health
from services._runtime.metrics import Metrics
from services.auth import keyring
from services.auth.adapters.kube import Kube
from services.auth.core.layout import INBOXES, NODE_ROLES, ROLE_ACCOUNTS
from services.auth.service import Auth
from services.auth.settings import Settings
from tests.runtime.helpers import running, until

ISSUER = "https://kubernetes.default.svc.cluster.local"
EXTRA = "authentication.kubernetes.io/"


class TokenApi:
    """Issues tokens and reviews them. `hang`: takes questions and never answers; `away`: refuses them."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.deleted: set[str] = set()  # Pods
        self.reviews = 0
        self.hang = False
        self.away = False
        self.port = 0
        self._released = asyncio.Event()

    def token(
        self,
        account: str = "nsm-plumber",
        *,
        node: str = "node1",
        namespace: str = "nsm-system",
        audience: str = "nats.nsm",
        seconds: float = 600,
        pod: str = "",
        key: Any = None,
        **claims: Any,
    ) -> str:
        now = time.time()
        bound: dict[str, Any] = {
            "namespace": namespace,
            "serviceaccount": {"name": account, "uid": "uid-of-account"},
        }
        if node:
            bound["node"] = {"name": node, "uid": f"uid-of-{node}"}
            name = pod or f"{account}-{node}"
            bound["pod"] = {"name": name, "uid": f"uid-of-{name}"}
        body = {
            "iss": ISSUER,
            "aud": [audience],
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "jti": secrets.token_hex(8),
            "kubernetes.io": bound,
        }
        return jwt.encode(
            {**body, **claims}, key or self.key, algorithm="ES256", headers={"kid": "k1"}
        )

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._trouble])
        app.add_routes(
            [
                web.post("/apis/authentication.k8s.io/v1/tokenreviews", self._review),
                web.get("/openid/v1/jwks", self._jwks),
                web.get("/.well-known/openid-configuration", self._configuration),
            ]
        )
        return app

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        listener = await Listener.open(self.application(), shutdown_timeout=0.1)
        self.port = listener.port
        try:
            yield
        finally:
            self._released.set()
            await listener.close()

    def kubeconfig(self, directory: Path) -> str:
        path = directory / "kubeconfig"
        path.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
            f"clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{self.port}'}}}}]\n"
            "contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n"
        )
        return str(path)

    @web.middleware
    async def _trouble(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.hang:
            await self._released.wait()
            raise web.HTTPServiceUnavailable
        if self.away:
            return web.json_response({"reason": "ServiceUnavailable"}, status=503)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _review(self, request: web.Request) -> web.Response:
        self.reviews += 1
        spec = (await request.json())["spec"]
        try:
            claims = jwt.decode(
                spec["token"],
                self.key.public_key(),
                algorithms=["ES256"],
                issuer=ISSUER,
                audience=spec["audiences"],
            )
            bound = claims["kubernetes.io"]
            if bound.get("pod", {}).get("name") in self.deleted:
                raise jwt.InvalidTokenError("pod is gone")
        except jwt.InvalidTokenError as exc:
            return web.json_response({"status": {"user": {}, "error": str(exc)}}, status=201)
        extra = {
            f"{EXTRA}{part}-{field}": [bound[part][field]]
            for part in ("pod", "node")
            for field in ("name", "uid")
            if part in bound
        }
        status = {
            "authenticated": True,
            "audiences": [a for a in spec["audiences"] if a in claims["aud"]],
            "user": {"username": claims["sub"], "extra": extra},
        }
        return web.json_response({"status": status}, status=201)

    async def _jwks(self, _: web.Request) -> web.Response:
        public = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        key = {**public, "kid": "k1", "use": "sig", "alg": "ES256"}
        return web.json_response({"keys": [key]}, content_type="application/jwk-set+json")

    async def _configuration(self, _: web.Request) -> web.Response:
        return web.json_response({"issuer": ISSUER})


class GuardedServer(NatsServer):
    """A nats-server that includes what `python -m services.auth config` prints."""

    tls_ca = ""
    replicas = 1

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        directory.mkdir()
        keyring.make(directory / "keys.json")
        self.keys = keyring.read(directory / "keys.json")

    def start(self) -> None:
        accounts = keyring.server_configuration(self.keys)
        config = write_config(self.directory, port=self.port, accounts=accounts)
        clear_ports(self.directory)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command(config), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.port = self._wait_until_ready()


class Denials(Exception):
    """The server let nobody in."""


class World:
    """One cluster. Clients and buses that it gave are closed with it."""

    def __init__(self, directory: Path, server: Any = None) -> None:
        self.directory = directory
        self.api = TokenApi()
        self.server: Any = server or GuardedServer(directory / "nats")
        self.metrics = Metrics()
        self.health = Health(self.metrics.registry)
        self._clients: list[Client] = []
        self._buses: list[Bus] = []
        self.errors: dict[Client, list[str]] = {}

    def figure(self, **labels: str) -> float:
        """Answers so far with these labels."""
        return sum(
            sample.value
            for metric in self.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "nsm_auth_answers_total" and labels.items() <= sample.labels.items()
        )

    def auth(self, kube: Kube, **options: Any) -> Auth:
        settings = Settings(keys_file="")
        parts = {"health": self.health, "registry": self.metrics.registry, **options}
        parts["tls_ca"] = self.server.tls_ca
        return Auth(self.server.keys, settings, kube, **parts)

    @asynccontextmanager
    async def answering(self, **options: Any) -> AsyncIterator[None]:
        """Auth runs, and is ready."""
        async with Kube(self.api.kubeconfig(self.directory)) as kube:
            auth = self.auth(kube, check_seconds=0.2, **options)
            async with running(auth.run(self.server.url)):
                await until(lambda: self.health.ready)
                yield

    async def login(
        self, role: str, *, node: str = "node1", token: str = "", name: str = ""
    ) -> Client:
        """A plain client with the role's token. Raises Denials."""
        is_node = role in NODE_ROLES
        named = f"{role}-{node.replace('.', '_')}" if is_node else role
        name = name or f"{named}-{secrets.token_hex(4)}"
        errors: list[str] = []

        async def keep(error: Exception) -> None:
            errors.append(str(error))

        client = Client()
        token = token or self.api.token(f"nsm-{role}", node=node if is_node else "")
        try:
            await client.connect(
                self.server.url.split(","),
                name=name,
                token=token,
                tls=Access(tls_ca=self.server.tls_ca).tls(),
                inbox_prefix=f"{INBOXES[ROLE_ACCOUNTS[role]]}.{name}",
                allow_reconnect=False,
                connect_timeout=4,
                error_cb=keep,
            )
        except Exception as exc:
            await client.close()
            raise Denials(str(exc) or type(exc).__name__) from exc
        self._clients.append(client)
        self.errors[client] = errors
        return client

    async def bus(self, role: str, *, node: str = "node1", seconds: float = 600) -> Bus:
        """A bus as the role's service opens it."""
        is_node = role in NODE_ROLES
        path = self.directory / f"token-{role}-{node}-{secrets.token_hex(2)}"
        self.write_token(path, role, node=node if is_node else "", seconds=seconds)
        name = f"{role}-{node}" if is_node else role
        bus = await Bus.connect(
            self.server.url,
            name=name,
            replicas=self.server.replicas,
            access=Access.of(role, token_file=str(path), tls_ca=self.server.tls_ca),
        )
        self._buses.append(bus)
        return bus

    def write_token(self, path: Path, role: str, *, node: str, seconds: float = 600) -> None:
        path.write_text(self.api.token(f"nsm-{role}", node=node, seconds=seconds))

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        for bus in self._buses:
            await bus.close()


@asynccontextmanager
async def a_world(directory: Path, server: Any = None, **options: Any) -> AsyncIterator[World]:
    world = World(directory, server)
    async with world.api.served():
        with world.server:
            async with world.answering(**options):
                try:
                    yield world
                finally:
                    await world.close()
