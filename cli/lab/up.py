"""`nsm lab up`: a cluster in one command; it ends with this command unless detached."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated

import typer

from cli import kube
from cli.lab.objects import tell_applied
from cli.lab.wait import Goal, wait_for
from cli.problems import Problem
from lab import linux, starting
from lab.api.client import Client
from lab.api.kinds import PODS
from lab.api.manifests import Manifest
from lab.layout import SERVICES, TOKEN_SECONDS, Config, LabProblem, default_directory

_RUNNING_SECONDS = 30.0
_ORDERLY_SECONDS = 5.0
_TAP_ENDED = "nsm: the tap ended, the lab goes on; have it back with: nsm tap 'log.nsm.>'"


Files = Annotated[
    list[Path] | None,
    typer.Option("--filename", "-f", help="Apply these manifests; repeatable."),
]
Nodes = Annotated[int, typer.Option("--nodes", help="How many nodes.")]
Detach = Annotated[
    bool,
    typer.Option("--detach", "-d", help="Return when it is ready; end it with: nsm lab down"),
]
Services = Annotated[
    str, typer.Option("--services", help="Which of our processes to run, comma separated.")
]
NatsServers = Annotated[
    int, typer.Option("--nats", help="How many NATS servers: 1, 3 or 5; as many replicas.")
]
WithTls = Annotated[bool, typer.Option("--tls", help="TLS on the bus, mutual between its servers.")]
Replicas = Annotated[
    int, typer.Option("--replicas", help="How many of auth, watcher and ipam each.")
]
WithTap = Annotated[
    bool, typer.Option("--tap", help="Print what the bus stores, as: nsm tap 'log.nsm.>'")
]
TokenSeconds = Annotated[
    float, typer.Option("--token-seconds", help="How long tokens live.", hidden=True)
]


def up(  # noqa: PLR0917 options of a command
    files: Files = None,
    nodes: Nodes = 2,
    detach: Detach = False,
    services: Services = ",".join(SERVICES),
    nats: NatsServers = 1,
    tls: WithTls = False,
    replicas: Replicas = 1,
    tap: WithTap = False,
    token_seconds: TokenSeconds = TOKEN_SECONDS,
) -> None:
    """Start a lab in NSM_LAB_DIR. Needs no root where user namespaces are open."""
    if tap and detach:
        raise Problem(
            "--tap prints as long as the lab is attached: no --detach with it", exit_code=2
        )
    manifests = kube.manifests(files or [], "default")
    config = Config(
        directory=str(default_directory()),
        nodes=nodes,
        services=_services(services),
        nats=nats,
        tls=tls,
        replicas=replicas,
        token_seconds=token_seconds,
    )
    _run(config, manifests, detach=detach, tap=tap)


def _run(config: Config, manifests: list[Manifest], *, detach: bool, tap: bool) -> None:
    began = time.monotonic()
    started = _start(config, detach=detach)

    def tell() -> None:
        _tell(started, config, time.monotonic() - began, detach=detach)

    if detach:
        _detached(manifests, tell)
        return
    try:
        with _tapped() if tap else contextlib.nullcontext():
            _apply(manifests)
            _stay(started, tell)
    except BaseException:
        _end(started)
        raise


def _start(config: Config, *, detach: bool) -> starting.Started:
    try:
        return starting.start(config, attached=not detach)
    except starting.StartFailed as exc:
        raise Problem(str(exc), exit_code=exc.code) from exc
    except LabProblem as exc:
        raise Problem(str(exc)) from exc


def _detached(manifests: list[Manifest], tell: Callable[[], None]) -> None:
    try:
        _apply(manifests)
    except Problem as exc:
        left = "the lab stays up, end it with: nsm lab down"
        raise Problem(f"{exc}; {left}", exit_code=exc.exit_code) from exc
    tell()


def _services(text: str) -> tuple[str, ...]:
    chosen = tuple(filter(None, (name.strip() for name in text.split(","))))
    unknown = [name for name in chosen if name not in SERVICES]
    if unknown:
        raise Problem(
            f"--services {','.join(unknown)}: choose from {','.join(SERVICES)}", exit_code=2
        )
    return ("nats", *(name for name in chosen if name != "nats")) if chosen else ()


def _apply(manifests: list[Manifest]) -> None:
    """Apply and wait until every Pod of them runs; connecting goes on meanwhile and after."""
    if not manifests:
        return
    pods: dict[str, list[str]] = {}
    for manifest in manifests:
        if manifest.kind == PODS:
            pods.setdefault(manifest.namespace, []).append(manifest.name)

    async def act(client: Client) -> None:
        tell_applied(await client.apply_all(manifests))
        for namespace, names in pods.items():
            await wait_for(client, namespace, names, goal=Goal.RUNNING, seconds=_RUNNING_SECONDS)

    kube.run(act)


def _tell(started: starting.Started, config: Config, seconds: float, *, detach: bool) -> None:
    state = started.state
    rows = [
        ("nodes", ", ".join(state.nodes)),
        ("api", f"{state.api_url}   export KUBECONFIG={started.layout.kubeconfig}"),
        ("nats", f"{state.nats_url}   nsm tap" if state.nats_url else "none"),
        *(
            [("tokens", f"{started.layout.tokens}/ of admin, viewer and each service")]
            if state.cli_token_file
            else []
        ),
        ("services", ", ".join(config.services) or "none"),
        ("logs", str(started.layout.logs)),
    ]
    print(f"the lab is up after {seconds:.1f} s")
    for name, text in rows:
        print(f"  {name:9} {text}")
    print(
        "  go on with: nsm lab get pods -A · nsm lab get connections -A · nsm lab exec POD -- CMD"
    )
    print(f"  end it with: {'nsm lab down' if detach else 'Ctrl-C, or nsm lab down'}", flush=True)


def _end_with_parent() -> None:
    linux.die_with_parent(signal.SIGKILL)


@contextlib.contextmanager
def _tapped() -> Iterator[None]:
    """With what the bus stores on standard output, from before anything is applied."""
    words = [sys.executable, "-m", "cli.main", "tap", "log.nsm.>"]
    with subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,  # Ctrl-C is for us: it would seem to end by itself
        preexec_fn=_end_with_parent,  # noqa: PLW1509 there are no threads here yet
    ) as process:
        is_over = threading.Event()
        hearing = threading.Thread(target=_pass_on, args=(process.stderr, is_over))
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            if not said.startswith("listening"):
                raise Problem(f"--tap: {said.strip() or 'it ended at once'}")
            hearing.start()
            yield
        finally:
            is_over.set()
            process.terminate()
            if hearing.ident is not None:
                hearing.join()


def _pass_on(pipe: IO[str], is_over: threading.Event) -> None:
    """What the tap complains of goes where our own complaints do, and its end is told unless it is our doing."""
    for line in pipe:
        print(line, end="", file=sys.stderr, flush=True)
    if not is_over.is_set():
        print(_TAP_ENDED, file=sys.stderr, flush=True)


def _stay(started: starting.Started, tell: Callable[[], None]) -> None:
    """Until Ctrl-C or TERM, or until the lab ends by itself."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    try:
        tell()  # here: who reads that the lab is up may end it at once, and that is an orderly end
        code = started.launcher.wait()
    except KeyboardInterrupt:
        print("\nthe lab ends", flush=True)
        _end(started)
        return
    if code != 0:
        raise Problem(f"the lab ended by itself; see {started.layout.log('lab')}")
    print("the lab was ended")


def _end(started: starting.Started) -> None:
    """TERM to the launcher, which is our child, then KILL; also when the lab is dying by itself."""
    started.launcher.terminate()
    try:
        started.launcher.wait(_ORDERLY_SECONDS)
    except subprocess.TimeoutExpired:
        started.launcher.kill()
        started.launcher.wait()
    if not started.layout.wait_unlocked(_ORDERLY_SECONDS):
        raise Problem(f"the lab in {started.layout.root} does not end; end it with: nsm lab down")
