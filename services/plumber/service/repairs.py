"""What was put right without anybody having granted anything new: said with its time, until something else is.

A repair is what it takes to get back to what was applied before. The time makes two equal repairs two pieces of news.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter

from schemas.state import EndStatus, Status
from schemas.subjects import ConnectionKey
from services.plumber.model import Adjust, Create, Operation, Rule, Wiring

log = structlog.get_logger()

_GONE = "it was deleted, renamed or replaced"
_SHOWN = 3  # addresses or routes that are named


class _Repair(msgspec.Struct, frozen=True):
    revision: int
    client: str = ""
    server: str = ""


class Repairs:
    """The last repair of each connection, as text per end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._last: dict[ConnectionKey, _Repair] = {}
        self._count = Counter(
            "nsm_plumber_repairs",
            "Interfaces that somebody changed or deleted and that were put right",
            registry=registry,
        )

    def note(self, key: ConnectionKey, wiring: Wiring, operation: Operation) -> None:
        """`operation` was performed on what had been applied as it is granted now."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        before = self._last.get(key, _Repair(wiring.revision))
        texts = {"client": before.client, "server": before.server}
        for side, what in _described(wiring, operation):
            texts[side] = f"{at} {what}"
            log.info("interface repaired", connection=key.subject, end=side, reason=what)
            self._count.inc()
        self._last[key] = _Repair(wiring.revision, **texts)

    def forget(self, key: ConnectionKey) -> None:
        self._last.pop(key, None)

    def told(self, key: ConnectionKey, status: Status) -> Status:
        """The status with what was repaired; a newer grant has nothing to do with it."""
        repair = self._last.get(key)
        if repair is None or repair.revision != status.revision:
            return status
        return msgspec.structs.replace(
            status,
            client=_with(status.client, repair.client),
            server=_with(status.server, repair.server),
        )


def _with(end: EndStatus | None, repaired: str) -> EndStatus | None:
    return None if end is None else msgspec.structs.replace(end, repaired=repaired)


def _described(wiring: Wiring, operation: Operation) -> Iterator[tuple[str, str]]:
    """Per local end that was worked on: what was wrong with it."""
    match operation:
        case Create():
            for side, end in (("client", wiring.client), ("server", wiring.server)):
                if end is not None:
                    yield side, f"{end.interface}: {_GONE}"
        case Adjust():
            side = "client" if operation.end == wiring.client else "server"
            yield side, f"{operation.end.interface}: {_wrong(operation)}"


def _wrong(change: Adjust) -> str:
    found, wiring = change.found, change.wiring
    wrong: list[str] = []
    if not found.up:
        wrong.append("it was down")
    if found.mtu != wiring.mtu:
        wrong.append(f"its MTU was {found.mtu} instead of {wiring.mtu}")
    wrong += _missing("address", change.add_addresses)
    wrong += _missing("route", [route.destination for route in change.add_routes])
    wrong += [f"its route {route.destination} was another" for route in change.change_routes]
    wrong += _missing("neighbour", [each.address for each in change.set_neighbours])
    wrong += _missing("route", list(_of_tables(change)))
    standing = _ruled(change)
    gone = [each.rule for each in change.add_lookups if _key(each.rule) not in standing]
    wrong += _missing("routing rule", [_rule(each.priority) for each in [*gone, *change.add_rules]])
    return ", ".join(wrong) or "its settings were others"


def _of_tables(change: Adjust) -> Iterator[str]:
    """Routes that are gone from a table whose rule is not."""
    standing = _ruled(change)
    emptied = [
        (standing[_key(e.rule)], e.routes) for e in change.add_lookups if _key(e.rule) in standing
    ]
    thinned = [(b.rule.table, after.routes - b.routes) for b, after in change.change_lookups]
    for table, routes in emptied + thinned:
        for route in sorted(routes, key=lambda r: (r.yields, r)):
            yield f"{route.destination} of table {table}"


def _ruled(change: Adjust) -> dict[Rule, int]:
    """Rules that lead to an empty table, and to which."""
    return {_key(rule): rule.table for rule in change.found.hollow}


def _key(rule: Rule) -> Rule:
    return msgspec.structs.replace(rule, table=0)


def _rule(priority: int) -> str:
    return f"of priority {priority}"


def _missing(what: str, names: Collection[str]) -> list[str]:
    shown = [f"its {what} {name} was gone" for name in list(names)[:_SHOWN]]
    return [*shown, f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else shown
