"""The API server as a Pod's own ServiceAccount sees it, by the standard library alone.

Objects go as they are, answers come as they are; what is not there is None, what changed meanwhile is
`Changed`, and everything else that the server refuses ends in one error with the server's own words.
"""

import http.client
import json
import os
import ssl
from pathlib import Path
from typing import Any

LABELS = {"app.kubernetes.io/name": "install", "app.kubernetes.io/part-of": "nsm"}
CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SECONDS = 10.0
_KINDS = {"PATCH": "application/merge-patch+json", "APPLY": "application/apply-patch+yaml"}

Object = dict[str, Any]


class InstallFailed(Exception):
    """What could not be done, and what the API server said."""


class Changed(InstallFailed):
    """Somebody else wrote it since it was read: to be read and decided anew."""


class Api:
    """Speaks of Secrets, ConfigMaps and events of one namespace by name, of anything else by path."""

    def __init__(
        self, connection: http.client.HTTPConnection, *, token: str, namespace: str
    ) -> None:
        self.namespace = namespace
        self._connection = connection
        self._token = token

    def get(self, plural: str, name: str) -> Object | None:
        """The object, or None."""
        status, body = self.ask("GET", self._path(plural, name))
        return None if status == http.client.NOT_FOUND else checked(status, body, name)

    def create(self, plural: str, name: str, content: Object) -> Object | None:
        """The object as created; None if there is one of that name."""
        whole = {"metadata": {"name": name, "labels": LABELS}, **content}
        status, body = self.ask("POST", self._path(plural), whole)
        return None if status == http.client.CONFLICT else checked(status, body, name)

    def patch(self, plural: str, name: str, content: Object) -> Object:
        """The object as changed. Raises Changed: it has not the version any more that `content` names."""
        status, body = self.ask("PATCH", self._path(plural, name), content)
        if status == http.client.CONFLICT:
            raise Changed(f"{name} was changed by somebody else: {body.get('message')}")
        return checked(status, body, name)

    def ask(self, method: str, path: str, body: Object | None = None) -> tuple[int, Object]:
        """Status and answer; `APPLY` is a server-side apply. Raises InstallFailed: no answer."""
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": _KINDS.get(method, "application/json"),
        }
        try:
            self._connection.request(
                method.replace("APPLY", "PATCH"),
                path,
                body=None if body is None else json.dumps(body),
                headers=headers,
            )
            response = self._connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as exc:
            self._connection.close()  # else it takes no further request, and every later part fails with this one
            raise InstallFailed(f"{method} {path}: {exc!r}; is the API server there?") from exc

    def _path(self, plural: str, name: str = "") -> str:
        return f"/api/v1/namespaces/{self.namespace}/{plural}" + (name and f"/{name}")


def checked(status: int, body: Object, name: str) -> Object:
    """The answer, if it is a good one. Raises InstallFailed."""
    if status >= http.client.BAD_REQUEST:
        raise InstallFailed(f"{name}: {status} {body.get('reason')}: {body.get('message')}")
    return body


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
