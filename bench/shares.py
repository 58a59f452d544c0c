"""Whose processor time a burst took: of all processes that are seen here, by the name of what they are.

Time on the processor hardly depends on what else the machine does, unlike time on the clock.
"""

import os
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM = 11, 12  # fields of /proc/PID/stat after the name

Shares = dict[str, float]  # seconds


def now() -> Shares:
    """Since each process began. One that ends meanwhile is missed."""
    found: Shares = {}
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            words = (place / "cmdline").read_text().split("\0")
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended
        name = _name(words)
        ticks = int(fields[_USER]) + int(fields[_SYSTEM])
        found[name] = found.get(name, 0.0) + ticks * _TICK_SECONDS
    return found


def told(before: Shares, after: Shares, *, per: int) -> str:
    """Milliseconds for each of `per`, the largest first; small ones are left out."""
    spent = {name: (after[name] - before.get(name, 0.0)) * 1e3 / per for name in after}
    largest = sorted(spent.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {each:.1f}" for name, each in largest if each >= 0.1)


def _name(words: list[str]) -> str:
    """Of a process of the lab: a service, the lab itself (API server and kubelets), or this benchmark."""
    if "nats-server" in words[0]:
        return "nats"
    for word in words:
        if word.startswith("services."):
            return word.removeprefix("services.")
        if word == "lab":
            return "lab"
    return "bench" if "bench" in " ".join(words) else "others"
