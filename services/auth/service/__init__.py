"""Question → who is it → may it be called so → rights → answer; a task per question, and always an answer."""

import asyncio
import secrets
import time
from collections.abc import Callable

import nats.errors
import structlog
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Counter, Histogram

from services._runtime.errors import Unavailable
from services._runtime.health import Health
from services.auth.adapters.kube import Tokens
from services.auth.core import callout, encoding, identity
from services.auth.core.encoding import BadEncoding
from services.auth.core.rights import rights
from services.auth.model import Denied, Identity, Keys, Question
from services.auth.service import probing
from services.auth.service.judging import Judge, Judged
from services.auth.service.responding import Responder
from services.auth.service.watching import Hung, Watchdog
from services.auth.settings import Settings

log = structlog.get_logger()

BUS, REVIEW, KEYS = "bus connected", "TokenReview answers", "public keys known"
AT_ONCE = 128  # more questions wait in the connection
CHECK_SECONDS = 3.0
ANSWER_SECONDS = 2.0  # as long as the server waits
LEARN_KEYS_SECONDS = 300.0
_MOST_FAILED_CHECKS = 3


class Auth:
    """The responder. `clock` is Unix seconds."""

    def __init__(
        self,
        keys: Keys,
        settings: Settings,
        tokens: Tokens,
        *,
        health: Health,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.time,
        check_seconds: float = CHECK_SECONDS,
        tls_ca: str = "",
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._audience = settings.audience
        self._judge = Judge(tokens, settings, clock=clock)
        self._health = health
        self._clock = clock
        self._check_seconds = check_seconds
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._responder = Responder(keys, name=f"auth-{secrets.token_hex(4)}", tls_ca=tls_ca)
        self._answers = Counter(
            "nsm_auth_answers",
            "Answers to logins: `allowed` or why not, and what that rests on",
            ["role", "outcome", "by"],
            registry=registry,
        )
        self._seconds = Histogram(
            "nsm_auth_answer_seconds", "How long an answer took", registry=registry
        )
        for step in (BUS, REVIEW, KEYS):
            health.expect(step)

    async def run(self, url: str) -> None:
        """Answer for ever. Raises Hung, or Refused if the settings cannot work."""
        try:
            with Watchdog() as dog:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._keep_keys())
                    group.create_task(self._check_review())
                    group.create_task(self._beat(dog))
                    await self._responder.open(url)

                    async def take(message: Msg) -> None:
                        await self._slots.acquire()
                        work = self._respond(message)
                        try:
                            task = group.create_task(work)
                        except RuntimeError:  # the group is ending, and so are we
                            work.close()
                        else:
                            task.add_done_callback(lambda _: self._slots.release())

                    await self._responder.hear(take)
                    group.create_task(self._check_myself())
                    await self._responder.closed.wait()
                    raise Hung("the connection to the bus was closed for good")
        finally:
            await self._responder.close()

    async def _respond(self, message: Msg) -> None:
        started = time.monotonic()
        server_xkey = (message.headers or {}).get(callout.XKEY_HEADER, "")
        try:
            question = callout.read_question(
                message.data, self._keys, server_xkey=server_xkey, now=self._clock()
            )
        except BadEncoding as exc:
            # There is nobody to answer to: who asks is told by the question.
            self._answers.labels("", "BadQuestion", "").inc()
            log.warning("a question that no server of ours asked", reason=str(exc))
            return
        try:
            verdict = await self._decide(question)
        except Exception:
            log.exception("a login could not be judged", connection=question.name)
            verdict = Denied("InternalError", "auth could not judge this login: see its log")
        answer = callout.write_answer(
            question,
            verdict,
            self._keys,
            server_xkey=server_xkey,
            nonce=secrets.token_bytes(24),
            now=self._clock(),
        )
        try:
            await message.respond(answer)
        except (OSError, nats.errors.Error) as exc:
            log.info("an answer could not be sent", connection=question.name, reason=str(exc))
        self._seconds.observe(time.monotonic() - started)

    async def _decide(self, question: Question) -> str | Denied:
        if probing.is_probe(question, self._responder.name):
            return Denied("Probe", question.name)
        judged = await self._judge.judge(question.token)
        found = judged.verdict
        verdict = found
        if isinstance(found, Identity):
            verdict = identity.name_problem(found, question.name) or found
        self._tell(question, found, verdict, judged)
        if isinstance(verdict, Denied):
            return verdict
        return callout.user_jwt(
            question,
            rights(verdict, question.name),
            self._keys,
            expires=verdict.expires,
            now=self._clock(),
        )

    def _tell(
        self,
        question: Question,
        found: Identity | Denied,
        verdict: Identity | Denied,
        judged: Judged,
    ) -> None:
        role = found.role if isinstance(found, Identity) else ""
        known = {"connection": question.name[:300], "by": judged.by, "role": role}
        if isinstance(verdict, Denied):
            self._answers.labels(role, verdict.reason, judged.by).inc()
            log.warning("login refused", reason=verdict.reason, message=verdict.message, **known)
        else:
            self._answers.labels(role, "allowed", judged.by).inc()
            log.info("login allowed", node=verdict.node, pod=verdict.pod, **known)

    async def _keep_keys(self) -> None:
        while True:
            try:
                await self._judge.learn_keys()
                self._health.done(KEYS)
            except Unavailable as exc:
                log.info("public keys not read, trying again", reason=exc.what)
            # Without any, tokens could not be checked if the API server went away now.
            await asyncio.sleep(LEARN_KEYS_SECONDS if self._judge.has_keys else 1.0)

    async def _check_review(self) -> None:
        """Whether TokenReview answers, also when nobody logs in."""
        while True:
            try:
                await self._tokens.review("self-check", self._audience)
                self._health.done(REVIEW)
            except Unavailable as exc:
                if REVIEW not in self._health.awaited:
                    log.warning("TokenReview does not answer", reason=exc.what)
                self._health.expect(REVIEW)
            await asyncio.sleep(self._check_seconds)

    async def _check_myself(self) -> None:
        """Raises Hung when questions by way of the server are not answered although we are connected."""
        failed = 0
        while failed < _MOST_FAILED_CHECKS:
            if not self._responder.is_connected.is_set():
                self._health.expect(BUS)
                await self._responder.is_connected.wait()
            failed = 0 if await self._is_heard() else failed + 1
            if failed == 0:
                self._health.done(BUS)
            await asyncio.sleep(self._check_seconds)
        raise Hung(f"{failed} questions of our own were not answered: ending, for a new process")

    async def _is_heard(self) -> bool:
        probe = probing.Probe(self._keys, self._responder.name, now=self._clock())
        try:
            answer = await self._responder.ask_myself(
                probe.data, probe.headers, seconds=ANSWER_SECONDS
            )
            probe.check(answer)
        except (OSError, TimeoutError, nats.errors.Error, encoding.BadEncoding) as exc:
            log.warning("self-check failed", reason=str(exc) or type(exc).__name__)
            return not self._responder.is_connected.is_set()  # a cut is no hang
        return True

    async def _beat(self, dog: Watchdog) -> None:
        while True:
            dog.beat()
            await asyncio.sleep(1.0)
