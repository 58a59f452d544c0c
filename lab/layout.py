"""Where a lab keeps things, and what it tells the command line about itself. One directory is one lab.

lock  lab.json  control.sock  kubeconfig  nats/  logs/<process>.log  logs/pods/…  netns/
nodes/<node>/cni/results  nodes/<node>/run  pods/<namespace>_<pod>/{netns,resolv.conf}
"""

import fcntl
import os
import time
from pathlib import Path

import msgspec


class LabProblem(Exception):
    """What a person can fix: the text names the thing, the reason and the remedy."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What a lab is made of. Services that cannot be found are told, not guessed."""

    directory: str
    nodes: int = 2
    services: tuple[str, ...] = ("nats", "watcher", "ipam", "plumber")

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"node{n}" for n in range(1, self.nodes + 1))


class State(msgspec.Struct, frozen=True, kw_only=True):
    """lab.json: how to reach a running lab from outside. Pids are the host's."""

    launcher_pid: int
    init_pid: int
    daemon_pid: int
    nodes: tuple[str, ...]
    services: tuple[str, ...]
    api_url: str
    nats_url: str  # empty without a NATS server
    started: str  # RFC 3339


def default_directory() -> Path:
    """`NSM_LAB_DIR`, or one lab per user."""
    chosen = os.environ.get("NSM_LAB_DIR")
    return Path(chosen).absolute() if chosen else Path(f"/tmp/nsm-lab-{os.getuid()}")  # noqa: S108 (ownership is checked)


class Layout:
    """Paths of one lab directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "lock"
        self.state = root / "lab.json"
        self.control = root / "control.sock"
        self.kubeconfig = root / "kubeconfig"
        self.nats = root / "nats"
        self.logs = root / "logs"
        self.netns = root / "netns"

    def log(self, process: str) -> Path:
        return self.logs / f"{process.replace('/', '-')}.log"

    def pod_log(self, namespace: str, pod: str, container: str) -> Path:
        return self.logs / "pods" / f"{namespace}_{pod}_{container}.log"

    def cni_results(self, node: str) -> Path:
        return self.root / "nodes" / node / "cni" / "results"

    def run_dir(self, node: str) -> Path:
        return self.root / "nodes" / node / "run"

    def node_netns(self, node: str) -> Path:
        return self.netns / node

    def pod_dir(self, namespace: str, pod: str) -> Path:
        return self.root / "pods" / f"{namespace}_{pod}"

    def prepare(self) -> None:
        """Make the directory ours alone. Raises LabProblem when it is somebody else's."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise LabProblem(
                f"lab directory {self.root}: {exc.strerror}; set NSM_LAB_DIR to one of yours"
            ) from exc
        # Also of the link, if it is one: in a shared place somebody else may have put it there.
        owners = {self.root.stat().st_uid, self.root.lstat().st_uid}
        if owners != {os.getuid()}:
            raise LabProblem(
                f"lab directory {self.root} belongs to another user (uid {max(owners)}); "
                "set NSM_LAB_DIR to one of yours"
            )
        if not self.lock.exists() and any(self.root.iterdir()):
            raise LabProblem(
                f"lab directory {self.root} holds files that are no lab's, and a lab wipes what it finds; "
                "set NSM_LAB_DIR to an empty directory"
            )

    def try_lock(self) -> int | None:
        """A descriptor that holds the lab, or None while another process does."""
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def wait_unlocked(self, timeout_seconds: float) -> bool:
        """Whether nothing of the lab runs any more, waiting for it."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            fd = self.try_lock()
            if fd is not None:
                os.close(fd)
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)

    def read_state(self) -> State:
        """lab.json of the running lab. Raises LabProblem when none runs here."""
        if not self.root.exists() or self.wait_unlocked(0):
            raise LabProblem(f"no lab runs in {self.root}; start one with: nsm lab up")
        try:
            return msgspec.json.decode(self.state.read_bytes(), type=State)
        except FileNotFoundError as exc:
            raise LabProblem(
                f"the lab in {self.root} is still starting (or going); try again"
            ) from exc

    def write_state(self, state: State) -> None:
        fresh = self.state.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(state))
        fresh.replace(self.state)
