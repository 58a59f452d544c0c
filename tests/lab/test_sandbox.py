"""What is said where a lab cannot start, and who owns a lab directory."""

import fcntl
import os
import threading

import pytest

from lab import control
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
    held = layout.take()
    assert held is not None
    assert layout.take() is None
    assert not layout.wait_unlocked(0)
    os.close(held)
    assert layout.wait_unlocked(0)


def test_who_only_looks_makes_no_lab_of_a_directory(tmp_path):
    (tmp_path / "precious").touch()
    layout = Layout(tmp_path)
    assert not layout.is_running()
    with pytest.raises(LabProblem):
        layout.read_state()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    (tmp_path / "lock").touch()  # some other program's
    with pytest.raises(LabProblem, match="no lab's"):
        layout.prepare()


def test_readers_do_not_take_each_other_for_a_lab_nor_keep_one_from_starting(tmp_path):
    layout = Layout(tmp_path)
    layout.prepare()
    reader = os.open(layout.lock, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    assert not layout.is_running()
    leaving = threading.Timer(0.05, os.close, [reader])
    leaving.start()
    held = layout.take()
    leaving.join()
    assert held is not None
    assert layout.is_running()
    os.close(held)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.touch()
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "lock").symlink_to(victim)
    with pytest.raises(LabProblem):
        Layout(tmp_path / "lab").prepare()
    with pytest.raises(OSError, match="symbolic"):
        Layout(tmp_path / "lab").take()
    assert victim.read_bytes() == b""


def test_a_directory_that_others_may_write_is_refused_with_the_remedy(tmp_path):
    layout = Layout(tmp_path / "lab")
    layout.prepare()
    layout.root.chmod(0o770)
    for refused in (layout.prepare, layout.read_state, lambda: control.call(layout, "GET", "/")):
        with pytest.raises(LabProblem, match="chmod go-w"):
            refused()


def test_log_names_fit_and_differ_however_long_the_pods_name_is(tmp_path):
    layout = Layout(tmp_path)
    one, two = (layout.pod_log("n" * 63, "p" * 252 + end, "c" * 63) for end in "ab")
    assert one != two
    assert max(len(one.name), len(two.name)) <= 255
    assert layout.pod_log("ns", "pod", "main").name == "ns_pod_main.log"


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
