"""Settings come from the environment, say what is wrong with them, and hide their secrets."""

import os
import subprocess
import sys

import msgspec
import pytest

from services._runtime.settings import RuntimeSettings, SettingsError, load, masked


class Example(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    retries: int = 3
    ratio: float = 0.5
    quiet: bool = False
    token: str = ""


def test_variables_fill_fields_and_defaults_the_rest() -> None:
    environ = {"X_NODE": "node1", "X_RETRIES": "7", "X_QUIET": "true", "X_RATIO": "0.25"}
    assert load(Example, "X", environ) == Example(node="node1", retries=7, quiet=True, ratio=0.25)
    assert load(Example, "X_", environ).retries == 7


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(Example, "X", {"X_NODE": "n", "X_RETRIES": ""}).retries == 3
    with pytest.raises(SettingsError, match="X_NODE is not set"):
        load(Example, "X", {"X_NODE": ""})


def test_a_bad_value_names_variable_value_and_reason() -> None:
    with pytest.raises(SettingsError, match=r"X_RETRIES='many' .*Expected `int`"):
        load(Example, "X", {"X_NODE": "n", "X_RETRIES": "many"})
    with pytest.raises(SettingsError, match=r"NSM_NATS_REPLICAS='2' .* one of 1, 3, 5"):
        load(RuntimeSettings, "NSM", {"NSM_NATS_REPLICAS": "2"})
    with pytest.raises(SettingsError, match=r"NSM_HEALTH_ADDRESS='foo' .* HOST:PORT"):
        load(RuntimeSettings, "NSM", {"NSM_HEALTH_ADDRESS": "foo"})


@pytest.mark.parametrize("address", ["127.0.0.1:0", ":9640", "[::1]:9640", "host:9640"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    assert load(RuntimeSettings, "NSM", {"NSM_HEALTH_ADDRESS": address}).health_address == address


def test_the_runtime_has_a_default_for_everything() -> None:
    settings = load(RuntimeSettings, "NSM", {})
    assert settings.nats_url == "nats://127.0.0.1:4222"
    assert settings.holder


def test_secrets_are_masked_when_printed_and_where_they_lie_is_not() -> None:
    printed = masked(Example(node="n", token="abc"))
    assert printed["token"] == "***"
    assert printed["node"] == "n"
    assert masked(RuntimeSettings(token_file="/run/token"))["token_file"] == "/run/token"
    url = masked(RuntimeSettings(nats_url="nats://user:pass@host:4222"))["nats_url"]
    assert url == "nats://***@host:4222"


@pytest.mark.parametrize("service", ["watcher", "ipam", "plumber", "dns", "webhook"])
def test_a_service_tells_its_settings_and_starts_with_no_word_it_does_not_know(
    service: str,
) -> None:
    asked, unknown = (_run(service, word) for word in ("--help", "once"))
    assert asked.returncode == 0
    assert {"NSM_NATS_URL=nats://127.0.0.1:4222", "NSM_HOLDER=(host name)"} <= set(
        asked.stdout.splitlines()
    )
    assert f"{service.upper()}_" in asked.stdout
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "unrecognized arguments: once" in unknown.stderr


@pytest.mark.parametrize(
    ("service", "variable"),
    [("watcher", "WATCHER_WRITES_IN_FLIGHT"), ("ipam", "IPAM_POOL_INTERVAL")],
)
def test_a_service_with_a_bad_setting_ends_in_one_line(service: str, variable: str) -> None:
    ended = _run(service, **{variable: "many"})
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{service}: {variable}='many' cannot be used")


def _run(service: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"services.{service}", *words]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
