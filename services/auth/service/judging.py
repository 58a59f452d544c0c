"""Who a token belongs to: remembered for a minute, else TokenReview, else the public keys.

Only good news is remembered as good. What TokenReview refused (a deleted Pod's token has a good signature
still) stays refused while the API server cannot be asked.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import structlog

from services._runtime.errors import Unavailable
from services.auth.adapters.kube import Tokens
from services.auth.core import identity, offline
from services.auth.model import Denied, Identity
from services.auth.settings import Settings

log = structlog.get_logger()

REMEMBER_SECONDS = 60.0
REVIEW_SECONDS = 1.0
_MOST_REMEMBERED = 10_000


class Judged(msgspec.Struct, frozen=True):
    """A verdict, and what it rests on: `review`, `keys` or `memory`."""

    verdict: Identity | Denied
    by: str


class Judge:
    """`clock` is Unix seconds."""

    def __init__(self, tokens: Tokens, settings: Settings, *, clock: Callable[[], float]) -> None:
        self._tokens = tokens
        self._namespace = settings.system_namespace
        self._audience = settings.audience
        self._clock = clock
        self._good: dict[bytes, tuple[float, Identity]] = {}
        self._refused: dict[bytes, None] = {}
        self._issuer = ""
        self._keys: dict[str, Any] = {}
        self._said_away = False

    @property
    def has_keys(self) -> bool:
        return bool(self._keys)

    async def judge(self, token: str) -> Judged:
        """Never raises for what a token or the API server does."""
        if not token:
            return Judged(
                Denied("NoToken", "the login has no token: set NSM_TOKEN_FILE of the client"),
                "memory",
            )
        digest = hashlib.sha256(token.encode()).digest()
        until, known = self._good.get(digest, (0.0, None))
        if known is not None and self._clock() < until:
            return Judged(known, "memory")
        try:
            async with asyncio.timeout(REVIEW_SECONDS):
                body = await self._tokens.review(token, self._audience)
            verdict = self._read_review(body, token)
        except (Unavailable, TimeoutError, msgspec.DecodeError) as exc:
            self._say_away(str(exc) or "no answer in time")
            return Judged(self._judge_offline(token, digest), "keys")
        self._said_away = False
        self._remember(digest, verdict, token)
        return Judged(verdict, "review")

    async def learn_keys(self) -> None:
        """Ask for the public keys; the old ones stand until there are new ones. Raises Unavailable."""
        issuer, jwks = await self._tokens.public_keys()
        try:
            self._keys = offline.read_keys(jwks)
        except (jwt.PyJWTError, ValueError) as exc:
            raise Unavailable(f"the cluster's public keys cannot be read: {exc}") from exc
        self._issuer = issuer

    def _read_review(self, body: bytes, token: str) -> Identity | Denied:
        expires = offline.expiry(token)
        verdict = identity.from_review(
            body, namespace=self._namespace, audience=self._audience, expires=expires
        )
        if isinstance(verdict, Identity) and expires <= self._clock():
            return Denied("TokenExpired", "the token does not say that it lasts")
        # A review answers a foreign audience with an error text of the API server's choice.
        if isinstance(verdict, Denied) and offline.is_for_others(token, self._audience):
            return Denied("WrongAudience", f"wants {self._audience!r}: {verdict.message}")
        return verdict

    def _judge_offline(self, token: str, digest: bytes) -> Identity | Denied:
        if not self._keys:
            return Denied(
                "CannotTell", "the API server cannot be asked and gave no public keys yet"
            )
        if digest in self._refused:
            return Denied(
                "TokenInvalid", "the API server refused this token when it could be asked"
            )
        claims = offline.verify(token, self._keys, issuer=self._issuer, now=self._clock())
        if isinstance(claims, Denied):
            return claims
        return identity.from_claims(claims, namespace=self._namespace, audience=self._audience)

    def _remember(self, digest: bytes, verdict: Identity | Denied, token: str) -> None:
        self._good.pop(digest, None)
        self._refused.pop(digest, None)
        now = self._clock()
        if isinstance(verdict, Identity):
            self._good[digest] = (min(now + REMEMBER_SECONDS, verdict.expires), verdict)
        # Garbage is refused without memory: remembering it would push out what matters.
        elif self._keys and isinstance(
            offline.verify(token, self._keys, issuer=self._issuer, now=now), dict
        ):
            self._refused[digest] = None
        for memory in (self._good, self._refused):
            while len(memory) > _MOST_REMEMBERED:
                del memory[next(iter(memory))]

    def _say_away(self, reason: str) -> None:
        if not self._said_away:
            self._said_away = True
            log.warning(
                "the API server cannot review tokens, checking them by its keys", reason=reason
            )
