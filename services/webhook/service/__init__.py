"""Certificate first, then the server; then both are kept, for ever. The API server may come and go."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge

from services._runtime import certificates
from services._runtime.backoff import backoff
from services._runtime.errors import Conflict, Unavailable
from services._runtime.health import Health
from services._runtime.run import Alone
from services.webhook.adapters import Denied, Kube
from services.webhook.service.answering import Answering
from services.webhook.service.trust import NoSecret, Objects, Trust
from services.webhook.settings import Settings

log = structlog.get_logger()

CERTIFICATE, TRUSTED = "certificate", "MutatingWebhookConfiguration trusts us"
ROUND_SECONDS = 30.0
_MOST_SECONDS = 10.0
REMEDY = "see whether k8s/components/webhook is applied, rights included, and the API server can be reached"

Connect = Callable[[], AbstractAsyncContextManager[Objects]]


async def start(settings: Settings, process: Alone) -> None:
    """What `run_alone` runs."""
    webhook = Webhook(
        settings,
        lambda: Kube(settings.kubeconfig),
        health=process.health,
        registry=process.metrics.registry,
    )
    await webhook.run()


class Webhook:
    """The server and its certificate. `connect` opens the API server."""

    def __init__(
        self,
        settings: Settings,
        connect: Connect,
        *,
        health: Health,
        registry: CollectorRegistry,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        round_seconds: float = ROUND_SECONDS,
    ) -> None:
        self._settings = settings
        self._connect = connect
        self._health = health
        self._trust = Trust(settings, clock=clock)
        self._answering = Answering(registry)
        self._ends = Gauge(
            "nsm_webhook_certificate_ends_seconds",
            "When the certificate that is served ends, Unix time; it is renewed 30 days before",
            registry=registry,
        )
        self._round_seconds = round_seconds
        self._complained = ""
        self.port = 0
        for each in (CERTIFICATE, TRUSTED):
            health.expect(each)

    async def run(self) -> None:
        """Until cancelled."""
        delays = backoff(most=_MOST_SECONDS)
        async with AsyncExitStack() as stack:
            kube = await stack.enter_async_context(self._connect())
            while True:
                if await self._round(kube):
                    delays = backoff(most=_MOST_SECONDS)
                    # Jittered: replicas need not collide for ever.
                    wait = self._round_seconds * random.uniform(0.8, 1.2)
                else:
                    wait = next(delays)
                if self._trust.served and not self.port:
                    await self._serve(stack)
                self._say()
                await asyncio.sleep(wait)

    async def _round(self, kube: Objects) -> bool:
        """Whether all is as it should be, as far as the API server lets us see."""
        try:
            await self._trust.settle(kube)
        except Conflict as exc:
            log.info("another replica was faster, reading again", reason=exc.what)
            return False
        except Unavailable as exc:
            self._complain("the API server does not answer, trying on", exc.what)
            return False
        except Denied as exc:
            self._complain("the API server does not permit this, trying on", str(exc))
            return False
        except NoSecret as exc:
            self._complain("nowhere to keep certificates, trying on", str(exc))
            return False
        if self._complained:
            self._complained = ""
            log.info("the API server answers again")
        return True

    def _complain(self, trouble: str, reason: str) -> None:
        """Once for each trouble, not for each try."""
        if trouble != self._complained:
            self._complained = trouble
            log.warning(trouble, reason=reason, remedy=REMEDY)

    async def _serve(self, stack: AsyncExitStack) -> None:
        runner = web.AppRunner(self._answering.application(), access_log=None, shutdown_timeout=2)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, _, port = self._settings.address.rpartition(":")
        site = web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=self._trust.context)
        await site.start()
        self.port = runner.addresses[0][1]
        log.info("webhook served", port=self.port)

    def _say(self) -> None:
        if self._trust.served:
            self._health.done(CERTIFICATE)
            self._ends.set(certificates.ends(self._trust.served.certificate).timestamp())
        if self._trust.trusted:
            self._health.done(TRUSTED)
