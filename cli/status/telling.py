"""A status as a person reads it: tables of 80 columns where names allow it, and the verdict last."""

from collections.abc import Iterator, Mapping, Sequence

from cli.output import folded, print_table
from cli.status.model import Counts, Lag, NodeState, ServiceState, Status, Wrong
from cli.status.survey import Stream

MOST_NODES = 20  # shown one by one; of more only those that something is wrong with
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def tell(status: Status) -> None:
    """Print all of it."""
    if status.url:
        _tell_system(status)
    if status.noted:
        print(f"FOR USERS TO MEND: {len(status.noted)}")
        _tell_all(status.noted)
        print()
    if status.well:
        print("all is well")
        return
    print(f"WRONG: {len(status.wrong)}")
    _tell_all(status.wrong)


def _tell_all(these: Sequence[Wrong]) -> None:
    for number, each in enumerate(these, 1):
        print(folded(f"{number}. {each.what}", hanging=3))
        print(folded(f"   do: {each.remedy}", hanging=7))


def _tell_system(status: Status) -> None:
    who = f"let {status.role} in" if status.role else "asks nobody who he is"
    took = (status.login_seconds or 0.0) * 1000
    print(folded(f"bus {status.url}: nats {status.server}, {who} ({took:.0f} ms)", hanging=4))
    print()
    print_table(
        ["SERVICE", "RUN", "LEADER", "LEADS FOR", "HEARTBEAT", "LAG", "VERSION"],
        [_service(each, status.at) for each in status.services],
    )
    print()
    _tell_nodes(status.nodes)
    print()
    print_table(
        ["STREAM", "MESSAGES", "SIZE", "LIMIT", "COPIES", "CONSUMERS"],
        [_stream(each) for each in status.streams],
    )
    print()
    if status.counts is not None and status.lag is not None:
        for line in (*_counts(status.counts), *_lag(status.lag)):
            print(folded(line, hanging=10))
        print()


def _service(each: ServiceState, now: float) -> list[str]:
    since = _short(now - each.leads_since) if each.leads_since is not None else "-"
    return [
        each.name,
        _number(each.replicas),
        each.leader or "NOBODY",
        since,
        _short(each.heartbeat_age) if each.heartbeat_age is not None else "-",
        _number(each.pending),
        ",".join(each.versions) or "?",
    ]


def _tell_nodes(nodes: Sequence[NodeState]) -> None:
    shown = [each for each in nodes if len(nodes) <= MOST_NODES or not _is_well(each)]
    if len(shown) < len(nodes):
        print(f"{len(nodes) - len(shown)} of {len(nodes)} nodes are well")
    if not nodes:
        print("no nodes: neither the watcher nor a plumber has told of any")
    elif shown:
        headers = ["NODE", "PLUMBER", "DNS", "CLIENTS", "SERVED", "NOT READY", "CAPTURED", "MTU"]
        print_table(headers, [_node(each) for each in shown[:MOST_NODES]])
    if len(shown) > MOST_NODES:
        print(f"and {len(shown) - MOST_NODES} more that are not well; all: -o json")


def _is_well(node: NodeState) -> bool:
    return node.plumber == "alive" and node.dns != "gone" and not node.not_ready


def _node(each: NodeState) -> list[str]:
    heartbeat = f" {_short(each.heartbeat_age)}" if each.heartbeat_age is not None else ""
    return [
        each.name,
        f"{each.plumber}{heartbeat}" if each.plumber == "alive" else each.plumber.upper(),
        each.dns if each.dns != "gone" else "GONE",
        *(str(n) for n in (each.clients, each.endpoints, each.not_ready, each.captured)),
        str(each.mtu) if each.mtu else "-",
    ]


def _stream(each: Stream) -> list[str]:
    if each.problem:
        return [each.name, "MISSING" if each.missing else "?", "-", "-", "-", "-"]
    whole = sum(copy.current and not copy.offline for copy in each.copies) or each.replicas
    return [
        each.name,
        str(each.messages),
        _size(each.bytes),
        _size(each.max_bytes) + (", drops old" if each.drops_old else ""),
        f"{whole}/{each.replicas}",
        str(each.consumers),
    ]


def _counts(counts: Counts) -> Iterator[str]:
    parts = [f"{counts.connected} of {counts.requests} connected"]
    for name, by_reason in (
        ("waiting", counts.waiting),
        ("refused", counts.refused),
        ("failed", counts.failed),
    ):
        if by_reason:
            parts.append(f"{sum(by_reason.values())} {name} ({_reasons(by_reason)})")
    yield f"requests  {', '.join(parts)}"
    yield (
        f"pools     {counts.pools}, {counts.pools_full} full, "
        f"{counts.pools_colliding} with prefixes in use"
    )


def _lag(lag: Lag) -> Iterator[str]:
    unanswered = f"{lag.unanswered} requests wait for ipam{_oldest(lag.oldest_unanswered)}"
    unwired = f"{lag.unwired} grants for their nodes{_oldest(lag.oldest_unwired)}"
    yield f"lag       {_number(lag.pending)} messages pending, {unanswered}, {unwired}"


def _oldest(age: float | None) -> str:
    return f" (the oldest {_short(age)})" if age is not None else ""


def _reasons(by_reason: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in by_reason.items())


def _number(number: int | None) -> str:
    return "?" if number is None else str(number)


def _short(age: float | None) -> str:
    """`0.4s`, `12s`, `3m`, `5h`, `9d`: enough to tell fresh from stale."""
    if age is None:
        return "?"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if age >= 2 * unit:
            return f"{age / unit:.0f}{name}"
    return f"{age:.0f}s" if age >= 10 else f"{max(age, 0.0):.1f}s"


def _size(number: int) -> str:
    for unit, name in _UNITS:
        if number >= unit:
            return f"{number / unit:.4g} {name}"
    return f"{number} B"
