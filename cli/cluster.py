"""What Kubernetes has, told by the lab's API server or by kubectl, which knows every way to log in to a cluster.

One that hangs is no reason to hang: what the bus says is told without it.
"""

import asyncio
import contextlib
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, TypeVar

import msgspec

from cli.problems import Problem, Unheard
from services.watcher.model import Namespace, NetworkServiceEndpoint, Pod

if TYPE_CHECKING:
    from lab.api.client import Client

T = TypeVar("T")

_API_SECONDS = 3
_KUBECTL_SECONDS = 8  # it asks more than once
# In kubectl's words. What it says without a kubeconfig, of localhost:8080, tells nothing of a cluster.
_AWAY = re.compile(
    r"\((ServiceUnavailable|InternalError|Timeout|ServerTimeout|TooManyRequests)\)|Unable to connect|"
    r"server (?!localhost:8080)\S+ was refused|the server is currently unable|timed out|deadline exceeded"
)
_OF_KUBECONFIG = re.compile(r"x509|certificate|no such host|getting credentials")
_ENDPOINTS = "networkserviceendpoints.networkservicemesh.io"


class _Endpoints(msgspec.Struct, frozen=True):
    items: tuple[NetworkServiceEndpoint, ...] = ()


def pod_of_lab(namespace: str, name: str) -> tuple[Pod | None, Namespace | None]:
    """A Pod and its Namespace, as the lab that runs here has them. Raises Problem."""
    from lab.api.kinds import NAMESPACES, PODS  # noqa: PLC0415 slow to import

    async def find(client: "Client") -> tuple[Pod | None, Namespace | None]:
        pod = await client.find(PODS, namespace, name)
        home = await client.find(NAMESPACES, "", namespace)
        return (
            msgspec.convert(pod, Pod) if pod else None,
            msgspec.convert(home, Namespace) if home else None,
        )

    return _of_lab(find)


def pod_by_kubectl(
    namespace: str, name: str, kubeconfig: str
) -> tuple[Pod | None, Namespace | None]:
    """A Pod and its Namespace, as kubectl has them. Raises Problem."""
    pod = _kubectl(["pod", name, "-n", namespace], kubeconfig)
    home = None
    with contextlib.suppress(Problem):  # who may see a Pod need not see its Namespace
        home = _kubectl(["namespace", namespace], kubeconfig)
    return (
        msgspec.json.decode(pod, type=Pod) if pod else None,
        msgspec.json.decode(home, type=Namespace) if home else None,
    )


def endpoints_in(
    namespaces: Collection[str], *, is_lab: bool, kubeconfig: str = ""
) -> tuple[NetworkServiceEndpoint, ...]:
    """NetworkServiceEndpoints of these namespaces at least, if anybody tells."""
    if not namespaces:
        return ()
    # One question however many they are.
    where = next(iter(namespaces)) if len(namespaces) == 1 else ""
    with contextlib.suppress(Problem):
        if is_lab and not kubeconfig:
            return _endpoints_of_lab(where)
        told = _kubectl([_ENDPOINTS, *(["-n", where] if where else ["-A"])], kubeconfig)
        return msgspec.json.decode(told or b"{}", type=_Endpoints).items
    return ()


def _endpoints_of_lab(namespace: str) -> tuple[NetworkServiceEndpoint, ...]:
    from lab.api.kinds import NETWORK_SERVICE_ENDPOINTS  # noqa: PLC0415 slow to import

    async def find(client: "Client") -> tuple[NetworkServiceEndpoint, ...]:
        found = await client.objects(NETWORK_SERVICE_ENDPOINTS, namespace=namespace)
        return msgspec.convert(tuple(found), tuple[NetworkServiceEndpoint, ...])

    return _of_lab(find)


def _of_lab(find: Callable[["Client"], Awaitable[T]]) -> T:
    from cli import kube  # noqa: PLC0415 slow to import

    async def in_time(client: "Client") -> T:
        try:
            async with asyncio.timeout(_API_SECONDS):
                return await find(client)
        except TimeoutError as exc:
            raise Unheard(f"the API server does not answer within {_API_SECONDS} s") from exc

    return kube.run(in_time)


def _kubectl(what: list[str], kubeconfig: str) -> bytes:
    """An object as JSON; empty: there is none. Raises Problem."""
    found = shutil.which("kubectl")
    if found is None:
        raise Problem("there is no kubectl here")
    chosen = ["--kubeconfig", kubeconfig] if kubeconfig else []
    command = [found, *chosen, "get", *what, "-o", "json", f"--request-timeout={_API_SECONDS}s"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_KUBECTL_SECONDS)
    except subprocess.TimeoutExpired as exc:
        raise Unheard(f"kubectl has no answer after {_KUBECTL_SECONDS} s") from exc
    except OSError as exc:
        raise Problem(f"kubectl: {exc}") from exc
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if any("(NotFound)" in line for line in said):
        return b""
    reason = said[-1] if said else f"exit code {done.returncode}"
    is_away = _AWAY.search(reason) and not _OF_KUBECONFIG.search(reason)
    raise (Unheard if is_away else Problem)(f"kubectl: {reason}")


def unheard_api() -> str:
    """Why the API server of the lab that runs here cannot be asked; empty: it can."""
    try:
        pod_of_lab("default", "none")
    except Problem as problem:
        return str(problem) if isinstance(problem, Unheard) else ""  # else it answers
    return ""
