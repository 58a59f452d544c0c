"""The lab as a cluster: Pods with networks, names and processes of their own."""

import fcntl
import json
import os
import socket
import termios
import time
from typing import Any

import pytest

from tests.lab.labs import Lab, a_pod, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lab")]

SLEEP = ("sleep", "1000")
LOOKUP = "import socket,sys; print(socket.gethostbyname(sys.argv[1]))"


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Lab:
    """`one` on node1 and `two` on node2, with a headless Service of `one`."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]},
    }
    lab.apply(
        a_pod("one", nodeName="node1", labels={"app": "web"}),
        a_pod("two", nodeName="node2", command=SLEEP),
        service,
    )
    lab.nsm("lab", "wait", "pod/one", "pod/two")
    return lab


def test_pods_reach_each_other_across_nodes(pods):
    for one, other in (("one", "two"), ("two", "one")):
        address = pods.pod(other)["status"]["podIP"]
        found = json.loads(pods.nsm("ping", one, address, "-I", "eth0", "-o", "json"))
        assert (found[0]["sent"], found[0]["received"]) == (3, 3)


def test_addresses_are_those_of_the_node(pods):
    status = pods.pod("two")["status"]
    assert status["podIP"].startswith("10.244.2.")
    assert status["hostIP"] == "172.18.0.12"
    nodes = {n["metadata"]["name"]: n for n in pods.items("nodes")}
    assert nodes["node2"]["spec"]["podCIDR"] == "10.244.2.0/24"


def test_a_pod_has_eth0_and_lo_and_a_default_route(pods):
    found = json.loads(pods.nsm("lab", "interfaces", "one", "-o", "json"))
    by_name = {interface["name"]: interface for interface in found}
    assert set(by_name) == {"lo", "eth0"}
    assert f"{pods.pod('one')['status']['podIP']}/24" in by_name["eth0"]["addresses"]
    routes = {route["destination"]: route["via"] for route in by_name["eth0"]["routes"]}
    assert routes["0.0.0.0/0"] == "10.244.1.1"


def test_the_cluster_dns_answers_in_every_pod(pods):
    for pod in ("one", "two"):
        assert pods.exec(pod, "python3", "-c", LOOKUP, "kubernetes.default").strip() == "10.96.0.1"
        web = pods.exec(pod, "python3", "-c", LOOKUP, "web.default.svc.cluster.local").strip()
        assert web == pods.pod("one")["status"]["podIP"]
    assert pods.run("lab", "exec", "one", "--", "python3", "-c", LOOKUP, "nothing").returncode == 1


def test_a_pod_has_its_own_resolv_conf_and_host_name(pods):
    resolv_conf = pods.exec("two", "cat", "/etc/resolv.conf")
    assert "nameserver 10.96.0.10" in resolv_conf
    assert "search default.svc.cluster.local" in resolv_conf
    assert pods.exec("two", "hostname").strip() == "two"
    assert socket.gethostname() != "two"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_exec_ends_with_the_code_of_the_command(pods, command, code):
    assert pods.run("lab", "exec", "one", "--", *command).returncode == code


def test_exec_passes_input_output_and_signals(pods):
    assert pods.run("lab", "exec", "one", "--", "cat", stdin="hello").stdout == "hello"
    script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with pods.popen("lab", "exec", "one", "--", "sh", "-c", script) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(10) == 5


def test_exec_shares_a_terminal_and_ctrl_c_arrives_once(pods):
    script = "trap 'echo got; exit 9' INT; tty; echo ready; while :; do sleep 0.05; done"
    ours, theirs = os.openpty()
    with pods.popen(
        *("lab", "exec", "one", "--", "sh", "-c", script),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: _become_foreground(theirs),
    ) as process:
        os.close(theirs)
        said = b""
        while b"ready" not in said:
            said += os.read(ours, 1024)
        assert b"/dev/pts/" in said
        os.write(ours, b"\x03")
        assert process.wait(10) == 9
    while b"got" not in said:
        said += os.read(ours, 1024)
    assert said.count(b"got") == 1
    os.close(ours)


def _become_foreground(terminal: int) -> None:
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def test_exec_into_a_pod_that_is_not_there_says_so(pods):
    done = pods.run("lab", "exec", "nobody", "--", "true")
    assert done.returncode == 1
    assert "default/nobody" in done.stderr and "nsm lab get pods" in done.stderr


def test_containers_get_their_environment_and_their_output_is_kept(lab):
    pod = a_pod("talks", command=["sh", "-c", "echo I am $NAME; exec sleep 1000"])
    pod["spec"]["containers"][0]["env"] = [
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]
    lab.apply(pod)
    lab.nsm("lab", "wait", "pod/talks")
    until("the output is there", lambda: "I am talks" in lab.pod_log("talks"))
    assert "I am talks" in lab.nsm("lab", "logs", "pod/talks")


def test_deleting_a_pod_gives_it_its_grace_and_leaves_nothing(lab):
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    lab.apply(a_pod("polite", nodeName="node1", command=["sh", "-c", script]))
    lab.nsm("lab", "wait", "pod/polite")
    until("it is up", lambda: "up" in lab.pod_log("polite"))
    results = lab.directory / "nodes" / "node1" / "cni" / "results"
    (result,) = [path for path in results.iterdir() if b'"polite"' in path.read_bytes()]
    namespaces, uid = lab.namespaces(), lab.pod("polite")["metadata"]["uid"]
    assert (lab.directory / "pods" / "by-uid" / uid).exists()
    lab.nsm("lab", "delete", "pod", "polite")
    assert "bye" in lab.pod_log("polite")
    assert not result.exists()
    assert len(namespaces - lab.namespaces()) == 1
    assert not (lab.directory / "pods" / "by-name" / "default" / "polite").is_symlink()
    assert not (lab.directory / "pods" / "by-uid" / uid).exists()


def test_a_pod_deaf_to_term_is_killed_after_its_grace(lab):
    script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    lab.apply(a_pod("deaf", command=["sh", "-c", script]))
    lab.nsm("lab", "wait", "pod/deaf")
    until("it is up", lambda: "up" in lab.pod_log("deaf"))
    began = time.monotonic()
    lab.nsm("lab", "delete", "pod", "deaf", "--grace-period", "1")
    assert 1.0 <= time.monotonic() - began < 25  # 30 without the flag


def test_restart_policy_is_honoured(lab):
    lab.apply(
        a_pod("works", command=["true"], restartPolicy="Never"),
        a_pod("fails", command=["false"], restartPolicy="Never"),
        a_pod("again", command=["false"]),
        a_pod("typo", command=["no-such-command"]),
    )
    until("works succeeded", lambda: lab.pod("works")["status"]["phase"] == "Succeeded")
    until("fails failed", lambda: lab.pod("fails")["status"]["phase"] == "Failed")
    for name in ("again", "typo"):
        until(f"{name} restarts", lambda: _container(lab, name)["restartCount"] >= 1)  # noqa: B023
    assert "no-such-command" in json.dumps(_container(lab, "typo"))


def test_an_init_container_runs_first(lab):
    pod = a_pod("prepared", command=["sh", "-c", "cat /tmp/$HOSTNAME.$MARK; exec sleep 1000"])
    mark = {"name": "MARK", "value": lab.directory.name}
    pod["spec"]["containers"][0]["env"] = [mark]
    write = 'echo made first > "/tmp/$HOSTNAME.$MARK"'
    pod["spec"]["initContainers"] = [
        {"name": "init", "image": "none", "command": ["sh", "-c", write], "env": [mark]}
    ]
    lab.apply(pod)
    lab.nsm("lab", "wait", "pod/prepared")
    until("it read", lambda: "made first" in lab.pod_log("prepared"))
    lab.exec("prepared", "rm", f"/tmp/prepared.{lab.directory.name}")


def test_a_readiness_gate_keeps_a_pod_unready(lab):
    gates = [{"conditionType": "example.com/gate"}]
    lab.apply(a_pod("gated", command=SLEEP, readinessGates=gates))
    lab.nsm("lab", "wait", "pod/gated", "--for", "running")
    done = lab.run("lab", "wait", "pod/gated", "--timeout", "200ms")
    assert done.returncode == 1
    assert "example.com/gate" in done.stderr


def test_a_host_network_pod_is_in_its_nodes_network(pods):
    lab = pods
    lab.apply(a_pod("host", nodeName="node1", hostNetwork=True, command=SLEEP))
    lab.nsm("lab", "wait", "pod/host")
    names = {i["name"] for i in json.loads(lab.nsm("lab", "interfaces", "host", "-o", "json"))}
    assert "cni0" in names
    lab.nsm("lab", "delete", "pod", "host", "--now")
    assert lab.run("ping", "one", "10.244.1.1", "-c", "1").returncode == 0


def test_pods_without_a_node_are_spread(lab):
    lab.apply(*(a_pod(f"spread{n}") for n in range(4)))
    lab.nsm("lab", "wait", *(f"pod/spread{n}" for n in range(4)))
    nodes = [lab.pod(f"spread{n}")["spec"]["nodeName"] for n in range(4)]
    assert sorted(nodes) == ["node1", "node1", "node2", "node2"]


def test_many_pods_come_and_go_at_once(lab):
    names = [f"many{n}" for n in range(30)]
    lab.apply(*(a_pod(name, command=SLEEP) for name in names))
    lab.nsm("lab", "wait", *(f"pod/{name}" for name in names))
    addresses = {lab.pod(name)["status"]["podIP"] for name in names}
    assert len(addresses) == len(names)
    lab.nsm("lab", "delete", "pod", *names, "--now")
    left = {pod["metadata"]["name"] for pod in lab.items("pods")}
    assert left.isdisjoint(names)


def test_a_node_without_power_loses_its_pods_and_starts_them_anew(lab):
    lab.apply(a_pod("survivor", nodeName="node2", command=SLEEP))
    lab.nsm("lab", "wait", "pod/survivor")
    before = lab.pod("survivor")["metadata"]["uid"]
    lab.nsm("lab", "node", "stop", "node2")
    (node,) = lab.items("nodes", "node2")
    assert node["status"]["conditions"][0]["status"] == "Unknown"
    assert lab.run("lab", "exec", "survivor", "--", "true").returncode == 1
    lab.nsm("lab", "node", "start", "node2")
    until(
        "it runs again",
        lambda: lab.run("lab", "exec", "survivor", "--", "true").returncode == 0,
    )
    assert lab.pod("survivor")["metadata"]["uid"] == before


def test_a_killed_process_is_started_again_on_its_port(lab):
    port = int(lab.state.nats_url.rsplit(":", 1)[1])

    def nats() -> dict[str, object]:
        return next(
            p for p in json.loads(lab.nsm("lab", "ps", "-o", "json")) if p["name"] == "nats"
        )

    before = nats()
    lab.nsm("lab", "kill", "nats", "-9", "--hold")
    until("it is held", lambda: not nats()["running"])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass
    lab.nsm("lab", "start", "nats")
    until("it runs", lambda: nats()["running"])
    assert nats()["pid"] != before["pid"]
    until("it listens", lambda: _listens(port))


def test_an_unknown_process_or_node_is_told_with_those_there_are(lab):
    done = lab.run("lab", "kill", "nobody")
    assert done.returncode == 1 and "there are: nats" in done.stderr
    done = lab.run("lab", "node", "stop", "node9")
    assert done.returncode == 1 and "node1, node2" in done.stderr


def test_a_service_of_several_processes_is_named_as_a_whole_or_one_by_one(own_lab):
    own_lab.up("--services", "nats,dns", "--nats", "3")
    done = own_lab.run("lab", "kill", "nats-2")
    assert done.returncode == 0, done.stderr
    told = own_lab.nsm("lab", "logs", "nats")
    assert [line for line in told.splitlines() if line.startswith("==>")] == [
        "==> nats-1 <==",
        "==> nats-2 <==",
        "==> nats-3 <==",
    ]
    one = own_lab.nsm("lab", "logs", "nats/1")
    assert own_lab.nsm("lab", "logs", "nats-1").startswith(one), "it only grows"
    assert len(own_lab.nsm("lab", "logs", "nats-1", "--tail", "2").splitlines()) == 2

    own_lab.nsm("lab", "node", "stop", "node1")
    done = own_lab.run("lab", "start", "dns/node1")
    assert done.returncode == 1
    assert "nsm lab node start node1" in done.stderr
    own_lab.nsm("lab", "node", "start", "node1")
    own_lab.nsm("lab", "start", "dns-node1")


def _container(lab: Lab, pod: str) -> dict[str, Any]:
    statuses = lab.pod(pod)["status"].get("containerStatuses") or [{"restartCount": 0}]
    return dict(statuses[0])


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
