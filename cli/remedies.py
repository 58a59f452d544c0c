"""What to do about a reason, and where to look: a lab and a cluster have different commands for the same thing."""

import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec

from cli import labs
from cli.problems import Problem
from schemas.reasons import OBJECTS

SYSTEM = "nsm-system"

WAIT = "wait; if it stays: nsm status"


class Place(msgspec.Struct, frozen=True):
    """Where the mesh runs that is looked at."""

    is_lab: bool
    frozen: tuple[str, ...] = ()  # processes of the lab that are stopped by a signal
    off: frozenset[str] = frozenset()  # nodes of the lab that are stopped

    @classmethod
    def of_lab(cls, processes: Iterable[Any]) -> "Place":
        """As the lab tells of its processes."""
        known = list(processes)
        return cls(
            is_lab=True,
            frozen=tuple(each["name"] for each in known if each.get("stopped")),
            off=frozenset(
                each["name"].partition("/")[2] for each in known if each.get("node_stopped")
            ),
        )

    def start(self, service: str, node: str = "") -> str:
        """How to have a service back that is not there."""
        if not self.is_lab:
            return self.see(service, node)
        process = f"{service}/{node}" if node else service
        return self._known(service, node) or (
            f"nsm lab start {process}; if it runs: nsm lab logs {process}"
        )

    def see(self, service: str, node: str = "") -> str:
        """How to look at a service, on a node."""
        if self.is_lab:
            return self._known(service, node) or (
                f"nsm lab ps; nsm lab logs {service}{'/' + node if node else ''}"
            )
        pods = f"kubectl -n {SYSTEM} get pods -l app.kubernetes.io/name={service}"
        if node:
            return (
                f"{pods} --field-selector spec.nodeName={node}; then: kubectl -n {SYSTEM} logs POD"
            )
        return f"{pods}; kubectl -n {SYSTEM} logs -l app.kubernetes.io/name={service}"

    def see_api(self) -> str:
        """How to look at the API server that the watcher hears."""
        if self.is_lab:
            return f"nsm lab behave; nsm lab logs lab; {self.see('watcher')}"
        return f"kubectl get --raw /readyz; {self.see('watcher')}"

    def _known(self, service: str, node: str) -> str:
        """What brings it back for certain; empty: the lab knows of nothing."""
        if node in self.off:
            return start_node(node)
        for name in self.frozen:
            kind, _, where = name.partition("/")
            if kind == service and node in ("", where):
                return thaw(name)
        return ""


def here(*, is_lab: bool) -> Place:
    """What is known of the place; a lab that does not answer is one, too."""
    if is_lab:
        with contextlib.suppress(Problem):
            return Place.of_lab(labs.processes())
    return Place(is_lab=is_lab)


def start_node(node: str) -> str:
    """A process of a node that is stopped does not come back by itself."""
    return f"nsm lab node start {node}"


def thaw(process: str) -> str:
    """For a process that a signal stopped."""
    return f"nsm lab kill {process} --signal CONT"


def is_users(reason: str) -> bool:
    """Whether somebody else than who runs the mesh has to act."""
    known = OBJECTS.get(reason)
    return known is not None and known.is_users


def of_reason(reason: str) -> str:
    """What to do about a reason, as the reference has it."""
    known = OBJECTS.get(reason)
    return known.remedy.replace("`", "") if known is not None and known.remedy else WAIT
