"""What Pods do to a lab that are deleted in haste, created anew, or ask for what cannot be."""

import sys
import time
from pathlib import Path

import pytest

from tests.lab.labs import Lab, a_pod, processes_with, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lab")]
DEAF = ("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done")


def _is_deaf(lab: Lab, name: str) -> None:
    until("it ignores TERM", lambda: "deaf" in lab.pod_log(name))


def _processes_of(lab: Lab, pod: str) -> set[tuple[int, int]]:
    """Not only the namespace: the number of one that ended is used again."""
    namespace = int(lab.exec(pod, "readlink", "/proc/self/ns/net").split("[")[1].rstrip("]\n"))
    found = {each for each in processes_with("net") if each[1] == namespace}
    assert found
    return found


def _are_gone(processes: set[tuple[int, int]]) -> bool:
    return not processes & set(processes_with("net"))


def test_force_deletion_ends_the_containers_at_once(lab):
    lab.apply(a_pod("forced", command=DEAF))
    lab.nsm("lab", "wait", "pod/forced")
    _is_deaf(lab, "forced")
    processes = _processes_of(lab, "forced")
    lab.nsm("lab", "delete", "pod", "forced", "--grace-period", "0")
    until("nothing runs", lambda: _are_gone(processes), seconds=5)


def test_a_later_and_shorter_deletion_shortens_the_grace(lab):
    lab.apply(a_pod("slow", command=DEAF))
    lab.nsm("lab", "wait", "pod/slow")
    _is_deaf(lab, "slow")
    lab.nsm("lab", "delete", "pod", "slow", "--no-wait")
    began = time.monotonic()
    lab.nsm("lab", "delete", "pod", "slow", "--grace-period", "1")
    assert time.monotonic() - began < 25  # not the 30 it was to have


def test_a_pod_created_anew_keeps_its_own_network_and_files(lab):
    again = a_pod("anew", command=DEAF)
    lab.apply(again)
    lab.nsm("lab", "wait", "pod/anew")
    _is_deaf(lab, "anew")
    first = _processes_of(lab, "anew")
    lab.nsm("lab", "delete", "pod", "anew", "--grace-period", "0", "--no-wait")
    lab.apply(again)
    lab.nsm("lab", "wait", "pod/anew")
    until("the first one is gone", lambda: _are_gone(first))
    assert _processes_of(lab, "anew")
    assert "nameserver 10.96.0.10" in lab.exec("anew", "cat", "/etc/resolv.conf")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("bad-env", {"env": [{"name": "A=B", "value": "x"}]}, "illegal environment"),
        ("bad-command", {"command": ["sleep", "a\0b"]}, "null byte"),
        ("no-command", {"command": ["/nowhere/to/be/found"]}, "No such file"),
    ],
)
def test_what_cannot_start_is_told_and_has_one_sandbox(lab, name, change, said):
    pod = a_pod(name, command=["sleep", "1000"], restartPolicy="Never")
    pod["spec"]["containers"][0] |= change
    before = lab.namespaces()
    lab.apply(pod)
    until("it failed", lambda: lab.pod(name)["status"]["phase"] == "Failed")
    (status,) = lab.pod(name)["status"]["containerStatuses"]
    assert status["state"]["terminated"]["reason"] == "StartError"
    assert said in status["state"]["terminated"]["message"]
    until("its network is gone", lambda: lab.namespaces() <= before)
    lab.nsm("lab", "delete", "pod", name)


def test_a_pod_may_have_the_longest_name_there_is(lab):
    name = "n" * 250
    lab.apply(a_pod(name, command=["sh", "-c", "echo here; sleep 1000"]))
    lab.nsm("lab", "wait", f"pod/{name}")
    assert "10.96.0.10" in lab.exec(name, "cat", "/etc/resolv.conf")
    until("its log is there", lambda: lab.nsm("lab", "logs", f"pod/{name}") == "here\n")
    lab.nsm("lab", "delete", "pod", name, "--now")


def test_a_pod_on_a_node_that_is_none_is_deleted_at_once(lab):
    lab.apply(a_pod("lost", nodeName="node77"))
    lab.nsm("lab", "delete", "pod", "lost", "--timeout", "5s")


def test_a_cordoned_node_and_one_without_the_label_get_no_pod(lab):
    lab.apply(a_pod("picky", nodeSelector={"kubernetes.io/hostname": "node2"}))
    lab.nsm("lab", "wait", "pod/picky")
    assert lab.pod("picky")["spec"]["nodeName"] == "node2"
    lab.apply(a_pod("hopeless", nodeSelector={"disk": "ssd"}))
    done = lab.run("lab", "wait", "pod/hopeless", "--timeout", "1s")
    assert done.returncode == 1 and "it has no node" in done.stderr
    lab.nsm("lab", "delete", "pod", "picky", "hopeless", "--now")


def test_the_bus_of_a_lab_is_for_those_who_know_its_token(lab):
    assert "@127.0.0.1:" in lab.state.nats_url
    port = lab.state.nats_url.rsplit(":", 1)[1]
    done = lab.run("tap", "--url", f"nats://127.0.0.1:{port}")
    assert done.returncode == 1 and "Authorization" in done.stderr
    assert (lab.directory / "nats" / "nats.conf").stat().st_mode & 0o077 == 0


def test_a_command_in_a_pod_has_the_usual_signals_and_finds_our_python(lab):
    lab.apply(a_pod("usual"))
    lab.nsm("lab", "wait", "pod/usual")
    ignored = lab.exec("usual", "grep", "SigIgn", "/proc/self/status").split()[1]
    assert int(ignored, 16) & (1 << 12 | 1 << 24) == 0  # SIGPIPE, SIGXFSZ
    assert (
        lab.exec("usual", "sh", "-c", "echo $PATH")
        .strip()
        .endswith(str(Path(sys.executable).parent))
    )


def test_what_a_terminal_cannot_show_ends_no_command(lab):
    lab.env["PYTHONIOENCODING"] = "ascii"
    try:
        lab.apply(a_pod("odd", command=["printf", "caf\\303\\251 \\377"], restartPolicy="Never"))
        until("it wrote", lambda: lab.pod("odd")["status"]["phase"] == "Succeeded")
        assert lab.nsm("lab", "logs", "pod/odd") == "caf? ?"
    finally:
        del lab.env["PYTHONIOENCODING"]
