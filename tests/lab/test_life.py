"""A lab's beginning and end: fast, alone in its directory, and without a trace however it dies."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lab.natsconfig import Tls
from tests.lab.labs import NOBODY, Lab, a_pod, processes_with, until, user_environment, user_python

pytestmark = pytest.mark.e2e

needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="every other test runs as an ordinary user already"
)


class Traces:
    """What a lab has in the kernel, to be looked for after its end."""

    def __init__(self, lab: Lab) -> None:
        state = lab.state
        self.pids = {state.launcher_pid, state.init_pid, state.daemon_pid}
        self.pid_namespace = Path(f"/proc/{state.daemon_pid}/ns/pid").stat().st_ino
        self.networks = lab.namespaces()
        self.ports = [int(url.rsplit(":", 1)[1]) for url in (state.api_url, state.nats_url)]
        self.directory = str(lab.directory)

    def left(self) -> list[str]:
        found = [f"pid {pid}" for pid in self.pids if _lives(pid)]
        found += [f"pid {p} inside" for p, ns in processes_with("pid") if ns == self.pid_namespace]
        found += [f"netns of {p}" for p, ns in processes_with("net") if ns in self.networks]
        for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
            try:
                if f"{self.directory}/netns/" in mounts.read_text():
                    found.append(f"mount in {mounts}")
            except OSError:
                continue
        for port in self.ports:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    sock.bind(("127.0.0.1", port))
                except OSError:
                    found.append(f"port {port}")
        return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _started(lab: Lab) -> Traces:
    """A lab with a Pod that has processes."""
    lab.up("--services", "nats", "--nodes", "1")
    lab.apply(a_pod("busy", command=["sh", "-c", "sleep 1000 & exec sleep 1000"]))
    lab.nsm("lab", "wait", "pod/busy")
    traces = Traces(lab)
    assert len(traces.left()) > 8
    return traces


def test_a_lab_of_two_nodes_leaves_nothing_when_it_is_down(own_lab):
    own_lab.up("--nodes", "2")
    traces = Traces(own_lab)
    own_lab.nsm("lab", "down")
    until("nothing is left", lambda: traces.left() == [])
    assert own_lab.run("lab", "down").returncode == 1


@pytest.mark.parametrize("victim", ["daemon_pid", "init_pid", "launcher_pid"])
def test_kill_9_of_any_of_its_processes_leaves_nothing_and_up_works_again(own_lab, victim):
    traces = _started(own_lab)
    os.kill(getattr(own_lab.state, victim), signal.SIGKILL)
    until("nothing is left", lambda: traces.left() == [])
    done = own_lab.run("lab", "get", "pods")
    assert done.returncode == 1 and "nsm lab up" in done.stderr
    own_lab.up("--services", "nats", "--nodes", "1")
    assert own_lab.items("pods") == []


def test_a_second_lab_in_the_directory_is_refused_naming_the_first(own_lab):
    own_lab.up("--services", "nats", "--nodes", "1")
    done = own_lab.run("lab", "up", "--detach")
    assert done.returncode == 1
    assert str(own_lab.directory) in done.stderr
    assert str(own_lab.state.daemon_pid) in done.stderr
    assert "nsm lab down" in done.stderr
    own_lab.nsm("lab", "get", "nodes")


def test_interrupting_a_lab_in_the_foreground_ends_it(own_lab):
    with own_lab.popen("lab", "up", "--services", "nats", "--nodes", "1") as process:
        assert "the lab is up" in process.stdout.readline()
        traces = Traces(own_lab)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    until("nothing is left", lambda: traces.left() == [])


def test_a_lab_in_the_foreground_tells_what_its_bus_stores(own_lab, tmp_path):
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(
        "apiVersion: v1\nkind: Pod\n"
        "metadata: {name: app, annotations: {networkservicemesh.io: nobody-offers-this}}\n"
        "spec: {containers: [{name: main, image: none, command: [sleep, '1000']}]}\n"
    )
    with own_lab.popen("lab", "up", "--tap", "--nodes", "1", "-f", str(manifest)) as process:
        try:
            awaited = {"log.nsm.refusal.default.app.", "the lab is up"}  # in any order
            while awaited and (line := process.stdout.readline()):
                awaited = {each for each in awaited if each not in line}
            assert not awaited
        finally:
            process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(15) == 0


def test_a_tap_that_ends_by_itself_is_told_and_the_lab_goes_on(own_lab):
    words = ("--tap", "--services", "nats,auth", "--nodes", "1")
    with own_lab.popen("lab", "up", *words) as process:
        try:
            assert any("the lab is up" in line for line in process.stdout)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            taps = [
                int(pid) for pid in children if b"tap" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            os.kill(taps[0], signal.SIGKILL)
            assert any("the tap ended, the lab goes on" in line for line in process.stderr)
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(15) == 0
        assert "tap" not in process.stderr.read()


@pytest.mark.parametrize("more", [(), ("--tap",)], ids=["silent", "tap"])
def test_kill_9_of_a_lab_in_the_foreground_ends_it(own_lab, more):
    with own_lab.popen("lab", "up", "--services", "nats,auth", "--nodes", "1", *more) as process:
        assert any("the lab is up" in line for line in process.stdout)
        traces = Traces(own_lab)
        process.kill()
        process.stdout.read()  # ends when nobody is left who holds it
    until("nothing is left", lambda: traces.left() == [])


def test_a_lab_in_the_foreground_that_dies_is_told_in_one_line(own_lab):
    with own_lab.popen("lab", "up", "--services", "nats", "--nodes", "1") as process:
        assert "the lab is up" in process.stdout.readline()
        traces = Traces(own_lab)
        os.kill(own_lab.state.daemon_pid, signal.SIGKILL)
        assert process.wait(15) == 1
        said = process.stderr.read()
    assert "ended by itself" in said and "Traceback" not in said
    until("nothing is left", lambda: traces.left() == [])  # the kernel ends those inside


def test_up_applies_manifests_and_waits_for_their_pods(own_lab, tmp_path):
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: app}\n"
        "spec: {containers: [{name: main, image: none, command: [sleep, '1000']}]}\n"
    )
    said = own_lab.up("--services", "nats", "--nodes", "1", "-f", str(manifest))
    assert "pod/app created" in said and "nsm lab exec" in said
    assert own_lab.pod("app")["status"]["phase"] == "Running"


def test_a_bad_manifest_starts_nothing(own_lab, tmp_path):
    manifest = tmp_path / "bad.yaml"
    manifest.write_text("apiVersion: v1\nkind: Deployment\nmetadata: {name: x}\n")
    done = own_lab.run("lab", "up", "--detach", "-f", str(manifest))
    assert done.returncode == 2
    assert "bad.yaml, document 1" in done.stderr and "Deployment" in done.stderr
    assert not (own_lab.directory / "lab.json").exists()


def test_a_directory_with_foreign_files_is_not_wiped(own_lab):
    (own_lab.directory / "nodes").mkdir()
    (own_lab.directory / "nodes" / "precious").touch()
    done = own_lab.run("lab", "up", "--detach")
    assert done.returncode == 1
    assert "no lab's" in done.stderr and "NSM_LAB_DIR" in done.stderr
    assert (own_lab.directory / "nodes" / "precious").exists()


@needs_root
@pytest.mark.parametrize(
    "words",
    [
        ("lab", "up", "--detach"),
        ("lab", "get", "pods"),
        ("lab", "exec", "p", "--", "true"),
        ("lab", "ps"),
        ("lab", "kill", "nats"),
        ("lab", "logs"),
        ("lab", "logs", "lab"),
        ("lab", "kubeconfig"),
        ("lab", "down"),
        ("tap",),
    ],
    ids=" ".join,
)
def test_somebody_elses_directory_is_refused_by_every_command(own_lab, words):
    os.chown(own_lab.directory, NOBODY, NOBODY)
    done = own_lab.run(*words)
    assert done.returncode == 1
    assert f"uid {NOBODY}" in done.stderr and "Traceback" not in done.stderr


@needs_root
def test_an_ordinary_user_gets_a_whole_lab():
    python = _python_for_users()
    lab = Lab(python=python, uid=NOBODY)
    try:
        lab.up("--nodes", "2")
        traces = Traces(lab)
        lab.apply(a_pod("one", nodeName="node1"), a_pod("two", nodeName="node2"))
        lab.nsm("lab", "wait", "pod/one", "pod/two")
        lab.nsm("ping", "one", lab.pod("two")["status"]["podIP"])
        assert "nameserver 10.96.0.10" in lab.exec("one", "cat", "/etc/resolv.conf")
        assert "eth0" in lab.nsm("lab", "interfaces", "two")
        assert lab.run("lab", "exec", "one", "--", "sh", "-c", "exit 7").returncode == 7
        lab.nsm("lab", "down")
        until("nothing is left", lambda: traces.left() == [])
    finally:
        lab.remove()


@needs_root
def test_where_user_namespaces_are_closed_the_setting_and_the_remedy_are_told():
    python = _python_for_users()
    lab = Lab(python=python, uid=NOBODY)
    code = (
        "import os,sys; from lab import linux; from pathlib import Path\n"
        "linux.unshare(linux.CLONE_NEWUSER); linux.map_to_root(65534, 65534)\n"
        "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        # Not root there: a lab of root needs no user namespace.
        "from lab import sandbox; os.geteuid = lambda: 1000\n"
        "from lab.layout import Config\n"
        "sys.exit(sandbox.run(Config(directory=sys.argv[1]), report_fd=1, attached=False,"
        " daemon=lambda *_: 0))"
    )
    try:
        done = subprocess.run(
            [python, "-c", code, str(lab.directory)],
            env={**lab.env, **user_environment()},
            cwd="/",
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert "user.max_user_namespaces is 0" in done.stdout
        assert "sysctl -w user.max_user_namespaces=15000" in done.stdout
    finally:
        lab.remove()


def _python_for_users() -> str:
    python = user_python()
    if python is None:
        pytest.skip(f"no Python that uid {NOBODY} may run with this tree (ours: {sys.executable})")
    probe = [python, "-c", "from lab import linux; linux.unshare(linux.CLONE_NEWUSER)"]
    closed = subprocess.run(
        probe, env={**os.environ, **user_environment()}, cwd="/", user=NOBODY, check=False
    )
    if closed.returncode != 0:
        pytest.skip("user namespaces are closed on this machine")
    return python


def test_several_nats_servers_are_processes_of_their_own_that_find_each_other(own_lab):
    own_lab.up("--services", "nats", "--nats", "3", "--nodes", "1")
    names = [p["name"] for p in json.loads(own_lab.nsm("lab", "ps", "-o", "json"))]
    assert names == ["lab", "nats/1", "nats/2", "nats/3"]
    assert own_lab.state.nats_url.count("nats://") == 3
    until(
        "they have a leader",
        lambda: "metadata leader" in own_lab.nsm("lab", "logs", "nats/2"),
    )
    own_lab.nsm("lab", "kill", "nats/1", "-9", "--hold")
    with own_lab.popen("tap") as process:  # at one that lives
        assert "listening" in process.stderr.readline()
        process.kill()


def test_with_tls_servers_and_clients_know_each_other_by_certificates_and_others_get_nowhere(
    own_lab,
):
    own_lab.up("--services", "nats,auth", "--nats", "3", "--nodes", "1", "--tls")
    config = (own_lab.directory / "nats/1/nats.conf").read_text()
    assert "verify: true" in config, "as k8s/overlays/production has it"
    assert "password" not in config
    until(
        "they have a leader",
        lambda: "metadata leader" in own_lab.nsm("lab", "logs", "nats/2"),
    )
    with own_lab.popen("tap") as process:
        assert "listening" in process.stderr.readline()
        process.kill()
    another = Tls.make(own_lab.directory / "another")
    own_lab.env["NSM_TLS_CA"] = str(another.ca)
    refused = own_lab.run("status")
    assert refused.returncode != 0
    logs = [own_lab.nsm("lab", "logs", f"nats/{n}") for n in (1, 2, 3)]
    assert any("TLS handshake error" in each for each in logs)


@pytest.mark.parametrize(
    ("words", "choice"), [(("--nats", "2"), "1, 3, 5"), (("--replicas", "9"), "1 to 3")]
)
def test_a_number_that_no_lab_has_is_refused_with_the_choice(own_lab, words, choice):
    done = own_lab.run("lab", "up", "--detach", *words)
    assert done.returncode == 1
    assert choice in done.stderr
