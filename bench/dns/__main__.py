"""`python -m bench.dns [--quick] [SETTING …]`: how many queries, at what cost, and how long a single one takes.

The servers take turns in short rounds, and the best round of each counts (+ how much worse the median was):
what else the machine does can only add. Trust ratios, and CPU time more than wall time. Each server is pinned to
one core, the load and the upstreams to another. `floor` is the same packets by a bare loop in Python.
"""

import argparse
import contextlib
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from bench.dns import dead
from bench.dns.contestants import CONTESTANTS, Missing, Running, Setting, upstreams
from bench.dns.load import Asker, Load

SETTINGS = {
    "1 upstream": Setting(upstreams=1),
    "2 upstreams": Setting(),
    "3 upstreams": Setting(upstreams=3),
    "5 upstreams": Setting(upstreams=5),
    "2 upstreams, 1,000 Pods": Setting(pods=1000),
    "2 upstreams, cache": Setting(cache=20_000),
}
_DEAD = "one dies"
_CACHED_NAMES = 8_000  # they fit every cache
_ALLOWED_LOSS = 0.001
_WARM_SECONDS = 20.0


class Found(NamedTuple):
    """One round."""

    rate: float
    cpu_us: float  # per query
    loss: float


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.dns", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three settings, half a minute")
    parser.add_argument("settings", nargs="*", help=f"of {', '.join((*SETTINGS, _DEAD))}")
    told = parser.parse_args()
    quick = ("2 upstreams", "2 upstreams, cache", _DEAD)
    names = told.settings or (quick if told.quick else (*SETTINGS, _DEAD))
    if unknown := set(names) - {*SETTINGS, _DEAD}:
        parser.error(f"no such setting: {', '.join(sorted(unknown))}; see --help")
    rounds, seconds = (5, 0.25) if told.quick else (12, 0.5)
    cores = _cores()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; pinned: {cores is not None}")
    for name in names:
        if name == _DEAD:
            dead.measure(cores=cores)
        else:
            measure(name, SETTINGS[name], rounds=rounds, seconds=seconds, cores=cores)


def measure(
    name: str, setting: Setting, *, rounds: int, seconds: float, cores: tuple[int, int] | None
) -> None:
    """All contestants in one setting."""
    server_core, load_core = cores or (None, None)
    print(f"\n{name}\n  {'':24}{'q/s':>9}{'CPU us/query':>14}{'lost':>9}{'p50 us':>9}{'p99 us':>9}")
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(upstreams(setting, core=load_core)).ports[0]
        running: dict[str, tuple[Running, Asker]] = {}
        for contestant, start in CONTESTANTS.items():
            try:
                server = stack.enter_context(start(setting, port, core=server_core))
            except Missing as exc:
                print(f"  {contestant:24}skipped: {exc}")
                continue
            asked = _names(setting)
            asker = Asker("127.0.0.1", server.ports, names=asked)
            stack.callback(asker.close)
            _warm(asker, setting, asked)
            running[contestant] = server, asker
        _compare(running, setting, rounds=rounds, seconds=seconds)


def _warm(asker: Asker, setting: Setting, names: int) -> None:
    """Every name twice."""
    answered, until = 0, time.monotonic() + _WARM_SECONDS
    while answered < 2 * names and time.monotonic() < until:
        answered += asker.ask_all(seconds=0.5, window=_window(setting)).answered


def _compare(
    running: dict[str, tuple[Running, Asker]], setting: Setting, *, rounds: int, seconds: float
) -> None:
    found: dict[str, list[Found]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, (server, asker) in running.items():
            before = cpu_us(server.pid)
            load = asker.ask_all(seconds=seconds, window=_window(setting))
            found[name].append(_found(load, cpu_us(server.pid) - before))
    for name, (_, asker) in running.items():
        times, all_ = asker.ask_each(500), found[name]
        loss = statistics.median(each.loss for each in all_)
        mark = "" if loss < _ALLOWED_LOSS else " (too much)"
        print(
            f"  {name:24}{max(e.rate for e in all_):>9.0f}{_best(all_):>9.1f} +{_spread(all_):<4.0f}"
            f"{loss:>9.2%}{times.median:>9.0f}{times.p99:>9.0f}{mark}"
        )
    for name, theirs in found.items():
        if "ours" in found and name != "ours":
            ratio = _best(theirs) / _best(found["ours"])
            print(f"  per CPU second, ours answers {ratio:.2f} times as much as {name}")


def cpu_us(pid: int) -> float:
    """What a process used of the CPUs, all its threads."""
    tasks = Path("/proc", str(pid), "task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000


def _found(load: Load, used_us: float) -> Found:
    answered = max(load.answered, 1)
    return Found(answered / load.seconds, used_us / answered, load.lost / (answered + load.lost))


def _best(found: list[Found]) -> float:
    """Of the round that was disturbed least: what others do to our caches only adds."""
    return min(each.cpu_us for each in found)


def _spread(found: list[Found]) -> float:
    """By how much the median round was worse."""
    return statistics.median(each.cpu_us for each in found) - _best(found)


def _names(setting: Setting) -> int:
    return _CACHED_NAMES if setting.cache else 40_000


def _window(setting: Setting) -> int:
    return 128 if setting.pods == 1 else 1024


def _cores() -> tuple[int, int] | None:
    """One for the server and one for the load; the latter is ours from now on."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None
    os.sched_setaffinity(0, {allowed[1]})
    return allowed[0], allowed[1]


if __name__ == "__main__":
    main()
