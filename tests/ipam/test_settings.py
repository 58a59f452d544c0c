"""Settings of ipam: a bad one ends the process and says what to write."""

import subprocess
import sys
from ipaddress import ip_network

import pytest

from services._runtime.settings import SettingsError, load
from services.ipam.settings import Settings


def of(text: str) -> Settings:
    return load(Settings, "IPAM", {"IPAM_AUTOMATIC_PREFIXES": text})


def test_automatic_prefixes_are_a_shared_block_and_a_unique_local_one_unless_told_otherwise() -> (
    None
):
    assert of("").supernets() == (
        (ip_network("100.112.0.0/12"), 24),
        (ip_network("fd6e:736d:6e61::/48"), 112),
    )


def test_automatic_prefixes_can_be_chosen_and_turned_off() -> None:
    assert of(" 10.64.0.0/10 = 26 ").supernets() == ((ip_network("10.64.0.0/10"), 26),)
    assert of("off").supernets() == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.0.0/8", "SUPERNET=LENGTH"),
        ("10.0.0.0/8=x", "SUPERNET=LENGTH"),
        ("10.0.0.1/8=24", "host bits"),
        ("10.0.0.0/8=7", "between 8 and 30"),
        ("10.0.0.0/8=31", "between 8 and 30"),
        ("fd00::/48=127", "between 48 and 126"),
        ("10.0.0.0/8=24,10.1.0.0/16=24", "overlaps"),
        ("224.0.0.0/8=24", "not for connections"),
        ("10.0.0.0/8=24,", "SUPERNET=LENGTH"),
    ],
)
def test_a_bad_list_of_automatic_prefixes_names_the_variable_and_the_reason(
    text: str, reason: str
) -> None:
    with pytest.raises(SettingsError, match="IPAM_AUTOMATIC_PREFIXES") as error:
        of(text)
    assert reason in str(error.value)
    assert "or off" in str(error.value)


@pytest.mark.parametrize("name", ["POOL_INTERVAL", "READDRESS_PER_SECOND"])
def test_a_pace_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load(Settings, "IPAM", {f"IPAM_{name}": "0"})


def test_a_bad_setting_ends_the_process_with_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.ipam"],
        env={"IPAM_AUTOMATIC_PREFIXES": "10.0.0.0/8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("ipam: IPAM_AUTOMATIC_PREFIXES=")
    assert len(ended.stderr.splitlines()) == 1
