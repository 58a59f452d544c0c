"""The keys of the bus are made once, whoever runs first, and the accounts always follow from them."""

import base64
import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools.install_keys import ACCOUNTS, CONFIG_MAP, KEYS, SECRET, Api, InstallFailed, install

ROOT = "/api/v1/namespaces/nsm-system/"


class Server(ThreadingHTTPServer):
    """Secrets and ConfigMaps, as an API server keeps them."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects = {}
        self.denied = set()
        self.before_create = {}  # path: what another run creates just before


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = json.loads(body or "{}")
        path = self.path.removeprefix(ROOT)
        assert self.headers["Authorization"] == "Bearer secret"
        if self.command == "POST":
            path = f"{path}/{told['metadata']['name']}"
        plural = path.partition("/")[0]
        if (self.command, plural) in self.server.denied:
            self.answer(403, {"reason": "Forbidden", "message": "no right"})
            return
        if self.command == "POST":
            self.server.objects.update(self.server.before_create.pop(path, {}))
            if path in self.server.objects:
                self.answer(409, {"reason": "AlreadyExists"})
                return
            self.server.objects[path] = told
        if self.command == "PATCH":
            assert self.headers["Content-Type"] == "application/merge-patch+json"
            self.server.objects[path].update(told)
        found = self.server.objects.get(path)
        self.answer(200 if found else 404, found or {"reason": "NotFound"})

    do_GET = do_POST = do_PATCH = handle_any  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def api(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    yield Api(connection, token="secret", namespace="nsm-system")
    connection.close()


def keys_of(server):
    return server.objects[f"secrets/{SECRET}"]["data"][KEYS]


def accounts_of(server):
    return server.objects[f"configmaps/{CONFIG_MAP}"]["data"][ACCOUNTS]


def test_keys_and_accounts_are_made_where_there_are_none(server, api):
    said = install(api)
    assert said == [f"Secret {SECRET} created", f"ConfigMap {CONFIG_MAP} created"]
    keys = json.loads(base64.b64decode(keys_of(server)))
    assert server.objects[f"secrets/{SECRET}"]["immutable"] is True
    assert "auth_callout" in accounts_of(server)
    for secret in keys.values():
        assert secret not in accounts_of(server)


def test_a_second_run_changes_nothing(server, api):
    install(api)
    before = json.dumps(server.objects)
    said = install(api)
    assert said == [f"Secret {SECRET} is there", f"ConfigMap {CONFIG_MAP} is as it should be"]
    assert json.dumps(server.objects) == before


def test_of_two_runs_at_once_the_first_ones_keys_count(server, api):
    install(api)
    first, accounts = dict(server.objects), accounts_of(server)
    server.objects.clear()
    server.before_create[f"secrets/{SECRET}"] = {f"secrets/{SECRET}": first[f"secrets/{SECRET}"]}
    install(api)
    assert keys_of(server) == first[f"secrets/{SECRET}"]["data"][KEYS]
    assert accounts_of(server) == accounts


def test_accounts_that_differ_are_put_right_and_the_restart_is_told(server, api):
    install(api)
    wanted = accounts_of(server)
    server.objects[f"configmaps/{CONFIG_MAP}"]["data"] = {ACCOUNTS: "of an older version"}
    said = install(api)
    assert accounts_of(server) == wanted
    assert "rollout restart" in said[-1]


def test_a_missing_right_is_told_by_the_servers_words(server, api):
    server.denied.add(("POST", "secrets"))
    with pytest.raises(InstallFailed, match=f"{SECRET}: 403 Forbidden: no right"):
        install(api)


def test_a_secret_without_keys_is_not_guessed_around(server, api):
    server.objects[f"secrets/{SECRET}"] = {"data": {"other": ""}}
    with pytest.raises(InstallFailed, match="delete it"):
        install(api)
