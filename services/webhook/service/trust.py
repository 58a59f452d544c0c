"""Keeps Secret, configuration and server of one mind: what is served is what the API server trusts.

Every replica does the same, round by round. The version that was read guards every write: who was slower
reads again. The configuration is read before the Secret, so that nobody who knows an old Secret overwrites
the trust of somebody who knows the new one. The Secret itself is never made here: who may make one of its name
may make it the token of any ServiceAccount of the namespace, and read that.
"""

import base64
import os
import ssl
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import structlog

from services._runtime.certificates import Certificate
from services.webhook.service import material
from services.webhook.service.material import SECRET, Material
from services.webhook.settings import Settings

log = structlog.get_logger()

CONFIGURATION = "nsm-webhook"
CONFIGURATION_PATH = (
    f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{CONFIGURATION}"
)

Object = dict[str, Any]


class NoSecret(Exception):
    """There is nothing to keep certificates in."""


class Objects(Protocol):
    """The API server, as far as trust needs it."""

    async def read(self, path: str) -> Object | None: ...
    async def replace(self, path: str, body: Object) -> None: ...


class Trust:
    """`context` is for the server: new connections get the newest certificate."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime]) -> None:
        self._names = settings.served_names
        self._secret = f"/api/v1/namespaces/{settings.system_namespace}/secrets/{SECRET}"
        self._clock = clock
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.served: Certificate | None = None
        self.trusted = False  # as we saw it last

    async def settle(self, kube: Objects) -> None:
        """One round. Raises NoSecret and what `kube` raises; the next round ends what is half done then."""
        configuration = await kube.read(CONFIGURATION_PATH)
        found = await self._settle_secret(kube)
        await self._settle_configuration(kube, configuration, found.authority.certificate)
        if found.leaf != self.served:
            _load(self.context, found.leaf)
            self.served = found.leaf
            log.info("certificate served", names=self._names)

    async def _settle_secret(self, kube: Objects) -> Material:
        secret = await kube.read(self._secret)
        if secret is None:
            raise NoSecret(f"there is no Secret {SECRET}")
        stored = material.of_secret(secret)
        wanted = material.renewed(stored, self._names, now=self._clock())
        if wanted is stored:
            return wanted
        await kube.replace(self._secret, material.to_secret(wanted, secret))
        log.info(
            "certificate made",
            secret=SECRET,
            new_authority=stored is None or stored.authority != wanted.authority,
            before="due" if stored else "not readable" if secret.get("data") else "none",
        )
        return wanted

    async def _settle_configuration(
        self, kube: Objects, configuration: Object | None, authorities: bytes
    ) -> None:
        if configuration is None:
            if self.trusted or self.served is None:
                log.warning(
                    "nobody asks us",
                    reason=f"there is no MutatingWebhookConfiguration {CONFIGURATION}",
                    remedy="apply k8s/components/webhook, or delete the Deployment webhook",
                )
            self.trusted = False
            return
        if trusts(configuration, authorities) is False:
            await kube.replace(CONFIGURATION_PATH, trusting(configuration, authorities))
            log.info("authority made known", configuration=CONFIGURATION)
        self.trusted = True


def trusts(configuration: Object, authorities: bytes) -> bool:
    """Whether every webhook of a configuration trusts exactly these."""
    wanted = base64.b64encode(authorities).decode()
    return all(
        each["clientConfig"].get("caBundle") == wanted
        for each in configuration.get("webhooks") or []
    )


def trusting(configuration: Object, authorities: bytes) -> Object:
    """The configuration, with these authorities in every webhook."""
    wanted = base64.b64encode(authorities).decode()
    webhooks = [
        {**each, "clientConfig": {**each["clientConfig"], "caBundle": wanted}}
        for each in configuration.get("webhooks") or []
    ]
    return {**configuration, "webhooks": webhooks}


def _load(context: ssl.SSLContext, leaf: Certificate) -> None:
    # OpenSSL's way in is a file; this one has no name and is never on a disk.
    descriptor = os.memfd_create("leaf")
    with os.fdopen(descriptor, "wb") as file:
        file.write(leaf.certificate + leaf.key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
