"""Where a lab keeps things, and what it tells the command line about itself. One directory is one lab.

lock  lab.json  control.sock  kubeconfig  nats/ (of three servers: nats/1/ …)  logs/<process>.log  logs/pods/…  netns/
tokens/<process or person>  keys.json (of the bus's callout)
nodes/<node>/cni/results  nodes/<node>/run
pods/by-uid/<uid>/{netns,resolv.conf}  pods/by-name/<namespace>/<pod> -> ../../by-uid/<uid>

The lock is also the mark of a lab: what it stands in may be wiped. Only who starts a lab makes it; whoever
reads looks at it with a shared lock, so that readers see the lab and not each other.
"""

import fcntl
import hashlib
import os
import time
from pathlib import Path

import msgspec

_MARK = b"This directory is a lab of nsm: what is in it is wiped when the next one starts.\n"
_NAME_BYTES = 180  # of the 255 that a file name may have; a container's name takes up to 63
_READERS_SECONDS = 1.0


# In the order they are started in. Without `auth` the bus has one token for everybody, and no roles.
SERVICES = ("nats", "auth", "watcher", "ipam", "plumber", "dns")
TOKEN_SECONDS = 600.0  # of a ServiceAccount's token; a test of its renewal wants less


class LabProblem(Exception):
    """What a person can fix: the text names the thing, the reason and the remedy."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What a lab is made of. Services that cannot be found are told, not guessed."""

    directory: str
    nodes: int = 2
    services: tuple[str, ...] = SERVICES
    nats: int = 1  # servers, and replicas of every stream
    tls: bool = False  # on the bus, between its servers too, as a cluster has it
    replicas: int = 1  # of what a cluster runs twice: auth, watcher, ipam
    token_seconds: float = TOKEN_SECONDS  # how long a ServiceAccount's token lives

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
    nats_url: str  # of every NATS server, comma separated; empty without one
    tls_ca: str = ""  # file of whom clients of the bus trust; empty without TLS
    cli_token_file: str = ""  # with role admin; empty where the bus asks for none
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
        self.tokens = root / "tokens"
        self.keys = root / "keys.json"

    def log(self, process: str) -> Path:
        return self.logs / f"{process.replace('/', '-')}.log"

    def token(self, holder: str) -> Path:
        """The token of a process, or of `admin` and `viewer`."""
        return self.tokens / holder.replace("/", "-")

    def pod_log(self, namespace: str, pod: str, container: str) -> Path:
        return self.logs / "pods" / f"{fitting(f'{namespace}_{pod}')}_{container}.log"

    def cni_results(self, node: str) -> Path:
        return self.root / "nodes" / node / "cni" / "results"

    def run_dir(self, node: str) -> Path:
        return self.root / "nodes" / node / "run"

    def node_netns(self, node: str) -> Path:
        return self.netns / node

    def pod_dir(self, uid: str) -> Path:
        return self.root / "pods" / "by-uid" / uid

    def pod_link(self, namespace: str, pod: str) -> Path:
        """Leads to the directory of the Pod that bears the name now."""
        return self.root / "pods" / "by-name" / namespace / pod

    def prepare(self) -> None:
        """Make the directory ours alone, and a lab's. Raises LabProblem when it is somebody else's."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise LabProblem(
                f"lab directory {self.root}: {exc.strerror}; set NSM_LAB_DIR to one of yours"
            ) from exc
        self.check_owner()
        if not self._is_marked() and any(self.root.iterdir()):
            raise LabProblem(
                f"lab directory {self.root} holds files that are no lab's, and a lab wipes what it finds; "
                "set NSM_LAB_DIR to an empty directory"
            )
        self._mark()

    def check_owner(self) -> None:
        """Raise LabProblem unless we alone can have written what is here. What is not there harms nobody."""
        try:
            # Also of the link, if it is one: in a shared place somebody else may have put it there.
            found, link = self.root.stat(), self.root.lstat()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise LabProblem(
                f"lab directory {self.root}: {exc.strerror}; set NSM_LAB_DIR to one of yours"
            ) from exc
        strangers = {found.st_uid, link.st_uid} - {os.getuid()}
        if strangers:
            raise LabProblem(
                f"lab directory {self.root} belongs to another user (uid {min(strangers)}); "
                "set NSM_LAB_DIR to one of yours"
            )
        if found.st_mode & 0o022:
            raise LabProblem(
                f"lab directory {self.root} may be written by other users; "
                f"take that away (chmod go-w {self.root}) or set NSM_LAB_DIR to another one"
            )

    def take(self) -> int | None:
        """A descriptor that holds the lab, or None while another lab does."""
        self._mark()
        fd = os.open(self.lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        deadline = time.monotonic() + _READERS_SECONDS
        while not _locked(fd, fcntl.LOCK_EX):
            # Readers hold it for moments, and shared; a lab holds it alone.
            if not _locked(fd, fcntl.LOCK_SH) or time.monotonic() > deadline:
                os.close(fd)
                return None
            fcntl.flock(fd, fcntl.LOCK_UN)
            time.sleep(0.005)
        return fd

    def is_running(self) -> bool:
        """Whether anything of a lab runs here."""
        try:
            fd = os.open(self.lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise LabProblem(f"lab directory {self.root}: its lock: {exc.strerror}") from exc
        try:
            return not _locked(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    def wait_unlocked(self, timeout_seconds: float) -> bool:
        """Whether nothing of the lab runs any more, waiting for it."""
        deadline = time.monotonic() + timeout_seconds
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def read_state(self) -> State:
        """lab.json of the running lab. Raises LabProblem when none of ours runs here."""
        self.check_owner()
        if not self.is_running():
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

    def _is_marked(self) -> bool:
        try:
            return not self.lock.is_symlink() and self.lock.read_bytes() == _MARK
        except OSError:
            return False

    def _mark(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.lock, flags, 0o600)
        try:
            os.write(fd, _MARK)
        finally:
            os.close(fd)


def fitting(name: str) -> str:
    """The name, or one that a file may have and no other name gets."""
    if len(name) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: _NAME_BYTES - 17]}-{digest}"


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
