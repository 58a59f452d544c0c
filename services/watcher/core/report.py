"""Report: what a Pod's status must say.

Judged only from what is current: of this Pod (UID) and of the newest grant (revision). Where the word of
ipam or of the node is merely missing, because they have not told everything yet, what the Pod already
shows goes on being true. Of a node that is lost nobody can tell any more: what stood there is neither
said to work nor not to.
"""

from collections.abc import Callable, Collection

import msgspec

from schemas.grant import Connection, Refusal
from schemas.intent import Request
from schemas.reasons import NOT_RELEASED
from schemas.state import EndStatus, Resolver, Status
from services.watcher.core import losing, resolving
from services.watcher.core.requests import Wanted
from services.watcher.model import CONDITION, STATUS_ANNOTATION, Pod, Problem, Shown
from services.watcher.wording import listed, shorten

CONNECTED = "Connected"
CONNECTING = "Connecting"
UPDATING = "Updating"  # an older revision stands while the newer one is being applied
COMPLETED = "PodCompleted"

MESSAGE_BYTES = 4096  # of a condition: every watcher of Pods gets it
_ITEM_BYTES = 1024


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the bus holds about a request. `settled`: what is absent is truly not there."""

    grant: Connection | None = None
    refusal: Refusal | None = None
    status: Status | None = None
    resolver: Resolver | None = None
    settled: bool = True


class Item(msgspec.Struct, frozen=True, kw_only=True):
    shown: Shown
    message: str = ""  # when ready: why its addresses are others than before, if they are
    covered: str = ""  # what of it a prefix in use covers although it stands
    kept: bool = False

    @property
    def ready(self) -> bool:
        return self.shown.state == "ready"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a Pod must show. Without items there is no annotation."""

    items: tuple[Shown, ...]
    connected: bool
    reason: str
    message: str
    messages: tuple[str, ...] = ()  # one per item
    covered: tuple[str, ...] = ()  # of each item that a prefix in use covers
    lost: bool = False  # it was connected when its node was last heard of
    kept: bool = False  # some item is shown on because nobody has told everything yet

    @property
    def annotation(self) -> str | None:
        if not self.items:
            return None
        return msgspec.json.encode([_fields(each) for each in self.items]).decode()

    @property
    def status(self) -> str:
        """That of the condition."""
        return _status(connected=self.connected, lost=self.lost)

    @property
    def waiting(self) -> bool:
        """Whether all that is missing will come by itself."""
        return not self.connected and self.reason in (CONNECTING, NOT_RELEASED)


class Showing(msgspec.Struct, frozen=True, kw_only=True):
    """What a Pod shows now."""

    annotation: str | None = None
    items: tuple[Shown, ...] = ()
    connected: bool | None = None  # None: it has no condition of ours
    lost: bool = False  # nobody can tell, and that is shown
    reason: str = ""
    message: str = ""
    covered: tuple[
        str, ...
    ] = ()  # known only of what we wrote ourselves: the message need not hold it

    @property
    def nothing(self) -> bool:
        return self.annotation is None and self.connected is None

    @property
    def status(self) -> str:
        """That of the condition; "": there is none."""
        if self.connected is None:
            return ""
        return _status(connected=self.connected, lost=self.lost)

    @property
    def told(self) -> tuple[object, ...]:
        """All that people see."""
        return self.annotation, self.status, self.reason, self.message


def showing(pod: Pod) -> Showing:
    """What a Pod shows; an annotation that is not ours to read shows no items.

    Nor does one without our condition beside it: it was copied from another Pod.
    """
    text = pod.annotations.get(STATUS_ANNOTATION)
    condition = pod.condition(CONDITION)
    items: tuple[Shown, ...] = ()
    if text is not None and condition is not None:
        try:
            items = msgspec.json.decode(text, type=tuple[Shown, ...])
        except msgspec.DecodeError:
            items = ()
    return Showing(
        annotation=text,
        items=items,
        connected=None if condition is None else condition.status == "True",
        lost=condition is not None and (condition.status, condition.reason) == losing.SHOWN,
        reason=(condition and condition.reason) or "",
        message=(condition and condition.message) or "",
    )


def without_annotation(wanted: Showing, shown: Showing, why: str) -> Showing:
    """What a Pod can show whose annotation the API server does not take: the condition says so."""
    missing = shorten(
        f"annotation {STATUS_ANNOTATION} cannot be written: {why}",
        _ITEM_BYTES,
    )
    room = MESSAGE_BYTES - len(missing.encode()) - 2
    return msgspec.structs.replace(
        wanted,
        annotation=shown.annotation,
        items=shown.items,
        message=f"{shorten(wanted.message, room)}; {missing}",
    )


def as_shown(report: Report, *, but: Collection[str] = ()) -> Showing:
    """What a Pod shows once a report was written; `but`: interfaces of which people were not told yet."""
    return Showing(
        annotation=report.annotation,
        items=tuple(each for each in report.items if each.interface not in but),
        connected=report.connected,
        lost=report.lost,
        reason=report.reason,
        message=report.message,
        covered=report.covered,
    )


def report(
    pod: Pod,
    wanted: Wanted,
    shown: Showing,
    facts: Callable[[Request], Facts],
    *,
    heard: bool | None = True,
) -> Report | None:
    """What a Pod must show; None: it is none of our business.

    `heard`: whether the plumber of its node lives; None: that is not known yet.
    """
    if not wanted.asks and shown.nothing and not (pod.gated and pod.node):
        return None
    if pod.terminal:
        return None if shown.nothing else _COMPLETED
    if not pod.node and wanted.problem is None and shown.nothing:
        return None  # what it asks for is published once it has a node
    before = {each.interface: each for each in shown.items}
    items = [
        _item(request, facts(request), before.get(request.interface)) for request in wanted.requests
    ]
    connected, reason, message = _verdict(wanted.problem, items)
    lost = connected and losing.is_lost(wanted, is_shown=shown.lost, heard=heard)
    if lost:
        connected, reason, message = False, losing.NODE_LOST, losing.message(pod.node, message)
    elif wanted.problem is None and not connected and shown.status == "False" and _unheard(items):
        reason, message = shown.reason, shown.message
    return Report(
        items=tuple(each.shown for each in items),
        connected=connected,
        reason=reason,
        message=message,
        messages=tuple(each.message for each in items),
        covered=tuple(_covered(each) for each in items if each.covered),
        lost=lost,
        kept=any(each.kept for each in items),
    )


def judge(request: Request, facts: Facts) -> Item:
    """What has become of one request, for who shows nothing of it yet."""
    return _item(request, facts, None)


def _item(request: Request, facts: Facts, shown: Shown | None) -> Item:
    if not facts.settled and shown is not None and _is_of(shown, request):
        message = "" if shown.state == "ready" else _WAITING_FOR_NEWS
        return Item(shown=shown, message=message, kept=True)
    if facts.grant is not None:
        item = _granted(request, facts.grant, _current(facts.grant, facts.status))
        was = shown if shown is not None and _is_of(shown, request) else None
        return _resolved(item, facts.grant, facts.resolver, was) if item.ready else item
    if facts.refusal is not None:
        return _not_ready(request, "refused", facts.refusal.reason, facts.refusal.message)
    return _not_ready(request, "waiting", CONNECTING, _NO_ANSWER)


def _current(grant: Connection, status: Status | None) -> Status | None:
    """What a node failed to do with an older grant says nothing about this one."""
    if status is None or status.client is None or status.revision >= grant.revision:
        return status
    return None if status.client.state == "failed" else status


def _granted(request: Request, grant: Connection, status: Status | None) -> Item:
    end = status.client if status is not None else None
    if end is None or end.uid != request.pod.uid:
        return _not_ready(
            request, "waiting", CONNECTING, f"waiting for node {grant.node} to wire it", grant
        )
    if end.state == "failed":
        return _not_ready(
            request, "failed", end.reason or "Failed", end.message or "no reason given", grant
        )
    if end.applied is not None and end.state == "ready":
        if end.applied.revision == grant.revision:
            shown = _shown(request, grant, end)
            return Item(shown=shown, message=grant.readdressed, covered=grant.covered)
        return _updating(request, end.applied, end)
    missing = end.message or f"waiting for node {grant.node} to wire it"
    return _not_ready(request, "waiting", CONNECTING, missing, grant)


def _updating(request: Request, applied: Connection, end: EndStatus) -> Item:
    """What stands is shown until the newer revision does."""
    shown = msgspec.structs.replace(_shown(request, applied, end), state="waiting", reason=UPDATING)
    missing = end.message or f"waiting for node {applied.node} to make it what was granted last"
    return Item(shown=shown, message=missing)


def _resolved(item: Item, grant: Connection, resolver: Resolver | None, was: Shown | None) -> Item:
    """What its link makes ready may still wait for its DNS: who looks up names would miss it."""
    missing = resolving.unserved(grant, resolver, was=was.dns if was is not None else None)
    if missing is None:
        served = msgspec.structs.replace(item.shown, dns=resolving.shown(grant.dns))
        return msgspec.structs.replace(item, shown=served)
    shown = msgspec.structs.replace(item.shown, state=missing.state, reason=missing.reason)
    return Item(shown=shown, message=missing.message)


def _shown(request: Request, grant: Connection, end: EndStatus) -> Shown:
    return Shown(
        name=f"{grant.network_service_namespace}/{grant.network_service}",
        interface=request.interface,
        ips=tuple(each.partition("/")[0] for each in end.addresses or grant.client.addresses),
        mac=end.mac or grant.client.mac,
        mtu=grant.mtu,
        state="ready",
        endpoint=f"{grant.server.pod.namespace}/{grant.server.pod.name}",
    )


def _not_ready(
    request: Request, state: str, reason: str, message: str, grant: Connection | None = None
) -> Item:
    namespace = request.network_service_namespace or request.pod.namespace
    if grant is not None:
        namespace = grant.network_service_namespace
    name = f"{namespace}/{request.network_service}"
    return Item(
        shown=Shown(name=name, interface=request.interface, state=state, reason=reason),
        message=message,
    )


def _is_of(shown: Shown, request: Request) -> bool:
    namespace, _, name = shown.name.partition("/")
    asked = request.network_service_namespace
    return name == request.network_service and asked in ("", namespace)


def _verdict(problem: Problem | None, items: list[Item]) -> tuple[bool, str, str]:
    if problem is not None:
        return False, problem.reason, shorten(problem.message, MESSAGE_BYTES)
    failing = [each for each in items if not each.ready]
    if failing:
        # Waiting passes by itself; what does not is the reason to show.
        worst = next((each for each in failing if each.shown.state != "waiting"), None)
        reason = worst.shown.reason if worst is not None else CONNECTING
        told = [_told(each.shown, each.message, under=reason) for each in failing]
        return False, reason, listed(told, MESSAGE_BYTES)
    if not items:
        return True, CONNECTED, "no network service is asked for"
    told = [_covered(each) if each.covered else _named(each.shown) for each in items]
    return True, CONNECTED, listed(told, MESSAGE_BYTES)


def _status(*, connected: bool, lost: bool) -> str:
    if lost:
        return "Unknown"
    return "True" if connected else "False"


def _named(item: Shown) -> str:
    return f"{item.interface} ({item.name})"


def _covered(item: Item) -> str:
    text = f"{_named(item.shown)} stays, for nothing else is free, although {item.covered}"
    return f"{shorten(text, _ITEM_BYTES)}; give the endpoint another prefix or route"


def _unheard(items: list[Item]) -> bool:
    return any(each.kept and not each.ready for each in items)


def _told(item: Shown, message: str, *, under: str) -> str:
    """In words; the reason only where it is not that of the condition, which stands beside them."""
    text = shorten(message, _ITEM_BYTES)
    if item.reason != under:
        text = f"{item.reason}: {text}"
    return f"{item.interface} ({item.name}): {text}"


def _fields(item: Shown) -> dict[str, object]:
    """As `network-status` is written: what is not known is left out."""
    always = ("name", "interface", "ips", "state")
    fields = msgspec.structs.asdict(item)
    return {key: value for key, value in fields.items() if value or key in always}


_NO_ANSWER = "ipam has not answered yet; is it running?"
_WAITING_FOR_NEWS = "waiting for news from ipam and the node"
_COMPLETED = Report(
    items=(),
    connected=False,
    reason=COMPLETED,
    message="the Pod has ended and gave back what it was granted",
)
