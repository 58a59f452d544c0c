"""The keys of the bus are made once, whoever runs first, and the accounts always follow from them."""

import base64
import json

import pytest

from tools.install_keys import ACCOUNTS, CONFIG_MAP, KEYS, SECRET, install
from tools.kube import InstallFailed


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


def test_accounts_that_differ_are_put_right_and_that_nats_reads_them_is_told(server, api):
    install(api)
    wanted = accounts_of(server)
    server.objects[f"configmaps/{CONFIG_MAP}"]["data"] = {ACCOUNTS: "of an older version"}
    said = install(api)
    assert accounts_of(server) == wanted
    assert "NATS reads it within minutes" in said[-1]


def test_a_missing_right_is_told_by_the_servers_words(server, api):
    server.denied.add(("POST", "secrets"))
    with pytest.raises(InstallFailed, match=f"{SECRET}: 403 Forbidden: no right"):
        install(api)


def test_a_secret_without_keys_is_not_guessed_around(server, api):
    server.objects[f"secrets/{SECRET}"] = {"data": {"other": ""}}
    with pytest.raises(InstallFailed, match="delete it"):
        install(api)
