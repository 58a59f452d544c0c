"""What there is to say of one Pod's connections here: as wished, as it is, what lies between, and what went wrong.

Read from the kernel at the moment of the question; nothing is changed.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from schemas.grant import Connection
from services._node.sandboxes import Sandboxes
from services.plumber.adapters import Kernel, Refused
from services.plumber.core import plan, wording
from services.plumber.model import Adjust, Create, Operation, Pair, Remove, Waiting, Wiring
from services.plumber.service.connections import Connections
from services.plumber.service.granted import Granted
from services.plumber.service.retries import Retries


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One connection of the Pod."""

    connection: str  # subject
    role: str  # of the Pod: client or endpoint
    network_service: str
    revision: int
    state: str  # as it was said last
    reason: str
    message: str
    desired: Wiring | Waiting | None  # None: nothing shall stand
    actual: Pair | None
    differences: tuple[str, ...] = ()
    last_error: str = ""
    repaired: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Of one Pod on one node."""

    node: str
    pod: str  # namespace/name
    networks: dict[str, str]  # uid: where its network was found, or why not
    connections: tuple[Explained, ...]


class Explainer:
    """Answers the question `pod=NAMESPACE/NAME`; `judge` is how the plumber itself does."""

    def __init__(
        self,
        node: str,
        *,
        kernel: Kernel,
        connections: Connections,
        sandboxes: Sandboxes,
        retries: Retries,
        granted: Granted,
        judge: Callable[[Connection], Wiring | Waiting],
    ) -> None:
        self._node = node
        self._kernel = kernel
        self._connections = connections
        self._sandboxes = sandboxes
        self._retries = retries
        self._granted = granted
        self._judge = judge

    async def __call__(self, question: Mapping[str, str]) -> Answer:
        """Raises LookupError for a Pod that has nothing to do with this node."""
        pod = question.get("pod", "")
        if pod.count("/") != 1:
            raise LookupError("which Pod? ask for /explain?pod=NAMESPACE/NAME")
        networks: dict[str, str] = {}
        found: list[Explained] = []
        for key in sorted(self._granted.connections(), key=lambda key: key.subject):
            held = self._connections.held.get(key)
            grant = self._granted.desired(key)
            known = grant or (held.grant if held else None)
            if known is None or not (role := _role(known, pod, self._node)):
                continue
            uid = (known.client if role == "client" else known.server).pod.uid
            networks[uid] = self._sandboxes.told(uid)
            found.append(await self._explained(known, role, is_wanted=grant is not None))
        if not found:
            raise LookupError(f"Pod {pod} has no connection on node {self._node}")
        return Answer(node=self._node, pod=pod, networks=networks, connections=tuple(found))

    async def _explained(self, grant: Connection, role: str, *, is_wanted: bool) -> Explained:
        key = grant.key
        verdict = self._judge(grant) if is_wanted else None
        formerly = self._connections.formerly(key)
        error = self._retries.reason(key)
        wanted = verdict if isinstance(verdict, Wiring) else None
        looked_at = wanted or formerly
        actual: Pair | None = None
        if looked_at is not None:
            try:
                actual = await self._kernel.read(looked_at)
            except Refused as exc:
                error = f"cannot be read now: {exc}"
        said = self._connections.said(key)
        end = said and (said.client if role == "client" else said.server)
        return Explained(
            connection=key.subject,
            role=role,
            network_service=f"{grant.network_service_namespace}/{grant.network_service}",
            revision=grant.revision,
            state=end.state if end else "",
            reason=end.reason if end else "",
            message=end.message if end else "",
            desired=verdict,
            actual=actual,
            differences=tuple(_differences(wanted, actual, formerly)),
            last_error=error,
            repaired=end.repaired if end else "",
        )


def _role(grant: Connection, pod: str, node: str) -> str:
    """What the Pod is in a connection; empty: nothing, or it is not here."""
    for end, role in ((grant.client, "client"), (grant.server, "endpoint")):
        if end.is_on(node) and f"{end.pod.namespace}/{end.pod.name}" == pod:
            return role
    return ""


def _differences(
    wanted: Wiring | None, actual: Pair | None, formerly: Wiring | None
) -> Iterator[str]:
    base = wanted or formerly
    if actual is None or base is None:
        return
    desired = {} if wanted is None else {base.tag: base}
    before = {} if formerly is None else {base.tag: formerly}
    for operation in plan(desired, {base.tag: actual}, before):
        yield from _told(operation)


def _told(operation: Operation) -> Iterator[str]:
    match operation:
        case Create():
            names = ", ".join(end.interface for end in operation.wiring.ends)
            yield f"to be made: {names}"
        case Remove():
            yield f"to be removed: {', '.join(end.interface for end in operation.ends)}"
        case Adjust():
            yield from _told_of_change(operation)


def _told_of_change(change: Adjust) -> Iterator[str]:
    name, found, wiring = change.end.interface, change.found, change.wiring
    if not found.up:
        yield f"{name}: to be set up"
    if found.mtu != wiring.mtu:
        yield f"{name}: MTU {found.mtu}, to be {wiring.mtu}"
    if found.revision != wiring.revision:
        yield f"{name}: of revision {found.revision}, to be {wiring.revision}"
    for words, values in _changes(change):
        if values:
            yield f"{name}: {words} {', '.join(values)}"


def _changes(change: Adjust) -> Iterator[tuple[str, list[str]]]:
    yield "to be added: address", [*change.add_addresses]
    yield "to be added: route", [*map(wording.route, change.add_routes)]
    yield "in the way: route", [str(each) for each in sorted(change.found.rivals)]
    yield "to take the place of another: route", [*map(wording.route, change.change_routes)]
    yield "to be set: neighbour", [*map(wording.neighbour, change.set_neighbours)]
    yield "to be removed: route", [*map(wording.route, change.drop_routes)]
    yield "to be removed: neighbour", [*map(wording.neighbour, change.drop_neighbours)]
    yield "to be removed: address", [*change.drop_addresses]
    yield "to be added: rule", [*map(wording.lookup, change.add_lookups)]
    for before, after in change.change_lookups:
        rule = wording.rule(before.rule)
        added, removed = after.routes - before.routes, before.routes - after.routes
        yield f"rule {rule}: to be added: route", [wording.routes(added)] if added else []
        yield f"rule {rule}: to be removed: route", [wording.routes(removed)] if removed else []
    yield "to be removed: rule", [*map(wording.lookup, change.drop_lookups)]
    yield "to be added: rule", [*map(wording.rule, change.add_rules)]
    yield "to be removed: rule", [*map(wording.rule, change.drop_rules)]
