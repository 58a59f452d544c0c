"""`python -m tools.install_keys`: the key of the bus, made once in a cluster, and the accounts that trust it.

It may run any number of times, also twice at once: whoever creates the Secret first decides, and the accounts
always follow from the keys that the Secret holds. It never changes or removes a key.
Runs in a Pod, with the rights of k8s/base/install.yaml.
"""

import base64
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SECRET, KEYS = "nsm-auth-keys", "keys.json"
CONFIG_MAP, ACCOUNTS = "nsm-nats-accounts", "accounts.conf"
LABELS = {"app.kubernetes.io/name": "install", "app.kubernetes.io/part-of": "nsm"}
CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = 10.0

Object = dict[str, Any]


class InstallFailed(Exception):
    """What could not be done, and what the API server said."""


class Api:
    """The API server of this Pod; speaks of Secrets and ConfigMaps of one namespace."""

    def __init__(
        self, connection: http.client.HTTPConnection, *, token: str, namespace: str
    ) -> None:
        self._connection = connection
        self._token = token
        self._namespace = namespace

    def get(self, plural: str, name: str) -> Object | None:
        """The object, or None."""
        status, body = self._ask("GET", f"{plural}/{name}")
        return None if status == http.client.NOT_FOUND else _checked(status, body, name)

    def create(self, plural: str, name: str, content: Object) -> Object | None:
        """The object as created; None if there is one of that name."""
        status, body = self._ask(
            "POST", plural, {"metadata": {"name": name, "labels": LABELS}, **content}
        )
        return None if status == http.client.CONFLICT else _checked(status, body, name)

    def patch(self, plural: str, name: str, content: Object) -> Object:
        """The object as changed."""
        return _checked(*self._ask("PATCH", f"{plural}/{name}", content), name)

    def _ask(self, method: str, place: str, body: Object | None = None) -> tuple[int, Object]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        path = f"/api/v1/namespaces/{self._namespace}/{place}"
        try:
            self._connection.request(
                method, path, body=None if body is None else json.dumps(body), headers=headers
            )
            response = self._connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise InstallFailed(f"{method} {path}: {exc!r}; is the API server there?") from exc


def in_pod() -> Api:
    """The API server as this Pod's ServiceAccount sees it. Raises InstallFailed."""
    try:
        token = (CREDENTIALS / "token").read_text().strip()
        context = ssl.create_default_context(cafile=CREDENTIALS / "ca.crt")
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        namespace = os.environ["POD_NAMESPACE"]
    except (OSError, KeyError) as exc:
        raise InstallFailed(
            f"{exc!r}: this runs in a Pod with a ServiceAccount, see k8s/base/install.yaml"
        ) from exc
    connection = http.client.HTTPSConnection(host, int(port), timeout=_SECONDS, context=context)
    return Api(connection, token=token, namespace=namespace)


def install(api: Api) -> list[str]:
    """Make what is missing; what was done, one line each. Raises InstallFailed."""
    secret = api.get("secrets", SECRET)
    said = [f"Secret {SECRET} is there"]
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory, KEYS)
        if secret is None:
            _auth("keys", str(keys))
            data = {KEYS: base64.b64encode(keys.read_bytes()).decode()}
            secret = api.create("secrets", SECRET, {"data": data, "immutable": True})
            said = [f"Secret {SECRET} created"]
        if secret is None:  # another run was faster: its keys count
            secret = api.get("secrets", SECRET) or {}
            said = [f"Secret {SECRET} is there by now"]
        keys.touch(mode=0o600)
        keys.write_bytes(_keys_of(secret))
        accounts = _auth("config", str(keys))
    return [*said, _install_accounts(api, accounts)]


def _keys_of(secret: Object) -> bytes:
    try:
        return base64.b64decode(secret["data"][KEYS])
    except (KeyError, TypeError, ValueError) as exc:
        raise InstallFailed(
            f"Secret {SECRET} has no {KEYS}: delete it, so that new keys are made"
        ) from exc


def _install_accounts(api: Api, accounts: str) -> str:
    wanted = {"data": {ACCOUNTS: accounts}}
    if api.create("configmaps", CONFIG_MAP, wanted) is not None:
        return f"ConfigMap {CONFIG_MAP} created"
    found = api.get("configmaps", CONFIG_MAP) or {}
    if found.get("data") == wanted["data"]:
        return f"ConfigMap {CONFIG_MAP} is as it should be"
    api.patch("configmaps", CONFIG_MAP, wanted)
    return f"ConfigMap {CONFIG_MAP} changed; NATS reads it when it restarts: kubectl rollout restart statefulset/nats"


def _auth(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "services.auth", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise InstallFailed(f"services.auth {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def _checked(status: int, body: Object, name: str) -> Object:
    if status >= http.client.BAD_REQUEST:
        raise InstallFailed(f"{name}: {status} {body.get('reason')}: {body.get('message')}")
    return body


if __name__ == "__main__":
    try:
        print("\n".join(install(in_pod())))  # noqa: T201  what `kubectl logs job/nsm-install` shows
    except InstallFailed as problem:
        sys.exit(f"install: {problem}")
