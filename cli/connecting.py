"""A person's connection to the bus. It outlives the server's restarts, renewed tokens and rotated authorities."""

import asyncio
import re
import ssl
import sys
from urllib.parse import urlsplit

import nats.errors

from cli.persons import Person, person
from cli.problems import Problem
from cli.remedies import SYSTEM
from services._runtime.access import Access
from services._runtime.client import Client, NoTls, is_about_login

_TIMEOUT_SECONDS = 6.0
_ATTEMPT_SECONDS = 4  # the server waits two for auth, and then says why: it is to be heard
_RETRY_SECONDS = 0.1
_LOGINS = 2  # a server that was just started may answer before auth is back


async def connect(server: str, *, name: str) -> Client:
    """A connection that survives the server's restarts. Raises Problem when nobody listens now."""
    return await log_in(server, person(server, name))


async def log_in(server: str, who: Person) -> Client:
    """The same, as this person. Raises Problem."""
    await _knock(server)
    access = who.access
    try:
        access.tls()
    except OSError as exc:
        raise Problem(f"NSM_TLS_CA={access.tls_ca}: {exc}") from exc
    refused: list[Exception] = []
    last: Exception | None = None
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while len(refused) < _LOGINS:
                try:
                    return await _attempt(server, who)
                except (ssl.SSLCertVerificationError, NoTls) as exc:
                    raise Problem(f"NATS at {shown(server)}: {_of_tls(exc, access)}") from exc
                except (OSError, nats.errors.Error) as exc:
                    last = exc
                    if is_about_login(exc):
                        refused.append(exc)
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError:
        pass
    reason = str(refused[0] if refused else last or "")
    if not reason:
        raise Problem(
            f"NATS at {shown(server)} takes connections and says nothing; does it hang? "
            "(nsm lab ps; on a cluster: kubectl -n nsm-system logs nats-0)"
        )
    raise Problem(f"NATS at {shown(server)} does not let us in: {reason}; {who.remedy}")


def _of_tls(exc: ssl.SSLCertVerificationError | NoTls, access: Access) -> str:
    """Neither token nor auth was asked: what both sides think of certificates."""
    if isinstance(exc, NoTls):
        return str(exc)
    why = exc.verify_message or str(exc)
    trusted = (
        f"NSM_TLS_CA={access.tls_ca}" if access.tls_ca else "the system (NSM_TLS_CA is not set)"
    )
    return (
        f"its certificate is not trusted by {trusted}: {why}; take the authority that the bus has now: "
        f"kubectl -n {SYSTEM} get configmap nsm-ca -o jsonpath='{{.data.ca\\.crt}}' > ca.crt"
    )


async def _attempt(server: str, who: Person) -> Client:
    """One attempt; what was let in once comes back after every cut. Raises OSError, nats.errors.Error."""

    async def show(problem: Exception) -> None:
        if "permissions violation" in str(problem).lower():
            print(f"nsm: the bus does not permit this: {problem}", file=sys.stderr, flush=True)

    access = who.access
    client = Client(
        hesitate=bool(access.token_file), insist_on_tls=bool(access.tls_ca), trust=access.tls
    )
    try:
        await client.connect(
            server.split(","),
            name=who.name,
            token=who.token if access.token_file else None,
            inbox_prefix=f"{access.inbox}.{who.name}",
            allow_reconnect=False,
            max_reconnect_attempts=-1,
            connect_timeout=_ATTEMPT_SECONDS,
            reconnect_time_wait=_RETRY_SECONDS,  # type: ignore[arg-type]  # slept as a float
            error_cb=show,
        )
    except BaseException:
        await client.close()
        raise
    client.options["allow_reconnect"] = True
    return client


async def _knock(servers: str) -> None:
    """Whether anybody listens at one of these at all. Raises Problem."""
    reasons = []
    for server in servers.split(","):
        try:
            place = urlsplit(server if "://" in server else f"nats://{server}")
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                _, writer = await asyncio.open_connection(place.hostname, place.port or 4222)
            writer.close()
        except (OSError, TimeoutError, ValueError) as exc:
            reasons.append(getattr(exc, "strerror", None) or str(exc) or "no answer")
        else:
            return
    raise Problem(
        f"NATS at {shown(servers)}: {reasons[0]}; is it running? "
        "(nsm lab ps; on a cluster: is the port forwarded?)"
    )


def shown(server: str) -> str:
    """The address without what is secret in it."""
    return re.sub(r"(?<=//)[^/@\s]+@", "", server)
