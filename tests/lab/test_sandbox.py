"""What is said where a lab cannot start, and who owns a lab directory."""

import os

import pytest

from lab.layout import LabProblem, Layout
from lab.network import Node
from lab.sandbox import closed_reason
from lab.sandboxes import Addresses, NoAddress


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel/unprivileged_userns_clone", "0"),
        ("user/max_user_namespaces", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_a_closed_setting_is_named_with_its_remedy(tmp_path, name, value):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(f"{value}\n")
    reason = closed_reason(tmp_path)
    dotted = name.replace("/", ".")
    assert f"{dotted} is {value}" in reason
    assert f"sudo sysctl -w {dotted}=" in reason
    assert "root" in reason


def test_without_a_known_setting_the_container_is_suspected(tmp_path):
    assert "seccomp" in closed_reason(tmp_path)


def test_a_lab_directory_has_one_holder(tmp_path):
    layout = Layout(tmp_path)
    held = layout.try_lock()
    assert held is not None
    assert layout.try_lock() is None
    assert not layout.wait_unlocked(0)
    os.close(held)
    assert layout.wait_unlocked(0)


def test_no_lab_says_how_to_start_one(tmp_path):
    with pytest.raises(LabProblem, match="nsm lab up"):
        Layout(tmp_path).read_state()
    with pytest.raises(LabProblem, match="nsm lab up"):
        Layout(tmp_path / "absent").read_state()


def test_pod_addresses_are_unique_until_the_network_is_full():
    addresses = Addresses(Node(number=3))
    taken = [str(addresses.take()) for _ in range(253)]
    assert len(set(taken)) == 253
    assert "10.244.3.1" not in taken and "10.244.3.0" not in taken and "10.244.3.255" not in taken
    with pytest.raises(NoAddress, match=r"10\.244\.3\.0/24"):
        addresses.take()
    addresses.free("10.244.3.77")
    assert str(addresses.take()) == "10.244.3.77"


def test_a_freed_address_rests_while_others_are_free():
    addresses = Addresses(Node(number=1))
    first = str(addresses.take())
    addresses.free(first)
    assert str(addresses.take()) != first
