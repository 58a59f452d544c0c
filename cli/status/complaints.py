"""What is wrong, and what to do: a line each. One cause is told once, however many suffer from it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cli.output import few
from cli.remedies import Place, is_users, of_reason
from cli.status.counting import Judged
from cli.status.model import Lag, NodeState, ServiceState, Wrong
from cli.status.survey import Sight, Stream, Told, of
from schemas import intent
from schemas.reasons import PREFIX_COLLISION

# What takes milliseconds when all is well may take seconds while something restarts.
PATIENCE_SECONDS = 5.0
MOST_PENDING = 1_000
FULL = 0.8
_NAMED = 3
_OWNERS = "watcher and ipam make the streams"


def of_streams(sight: Sight, place: Place) -> Iterator[Wrong]:
    """Streams that are not there, not whole, or nearly full."""
    missing = [each.name for each in sight.streams if each.missing]
    if missing:
        yield Wrong(
            f"no stream {few(missing)}: {_OWNERS} as soon as they run",
            f"{place.see('watcher')}; {place.see('ipam')}",
        )
    for stream in sight.streams:
        if stream.problem and not stream.missing:
            yield Wrong(
                f"stream {stream.name} does not answer: {stream.problem}",
                "more than half of its NATS servers have to run; " + place.see("nats"),
            )
        elif not stream.problem:
            yield from _leaderless(stream, place)
            yield from _of_room(stream)
    yield from _of_copies(sight.streams, place)
    if sight.malformed:
        yield Wrong(
            f"the bus holds what is no message: {sight.malformed[0]}"
            + (f" and {len(sight.malformed) - 1} more" if len(sight.malformed) > 1 else ""),
            "somebody else wrote it, or a newer version; a service writes it anew when it starts",
        )


def _leaderless(stream: Stream, place: Place) -> Iterator[Wrong]:
    if stream.replicas > 1 and not any(each.leads for each in stream.copies):
        yield Wrong(
            f"stream {stream.name} has no leader: nothing can be written",
            "more than half of its NATS servers have to run; " + place.see("nats"),
        )


def _of_copies(streams: Iterable[Stream], place: Place) -> Iterator[Wrong]:
    """By server: one that is down has a copy of every stream."""
    behind: dict[str, list[str]] = {}
    for stream in streams:
        for each in stream.copies:
            if each.offline or (not each.current and each.lag > 0):
                behind.setdefault(each.server, []).append(stream.name)
    for server, names in sorted(behind.items()):
        yield Wrong(
            f"NATS server {server} is offline or behind with {few(names)}: the others go on",
            "it catches up by itself once it runs; " + place.see("nats"),
        )


def _of_room(stream: Stream) -> Iterator[Wrong]:
    if not stream.drops_old and stream.max_bytes > 0 and stream.bytes > FULL * stream.max_bytes:
        yield Wrong(
            f"stream {stream.name} holds {stream.bytes} of at most {stream.max_bytes} bytes: "
            "a full one refuses what is new",
            "raise max_bytes of the streams and max_file_store of NATS",
        )
    if stream.max_consumers > 0 and stream.consumers > FULL * stream.max_consumers:
        yield Wrong(
            f"stream {stream.name} has {stream.consumers} of at most {stream.max_consumers} consumers: "
            "nodes that join could not follow it",
            "raise max_consumers of the streams",
        )


def of_services(services: Sequence[ServiceState], sight: Sight, place: Place) -> Iterator[Wrong]:
    """Nobody leads, or who leads has not said all."""
    meanwhile = {
        "watcher": "edits in Kubernetes wait, Pods are told nothing new; connections stay",
        "ipam": "new requests wait; connections stay",
    }
    for each in services:
        see = place.start(each.name) if each.replicas == 0 else place.see(each.name)
        if not each.leader:
            there = {
                None: "",
                0: f", and no process of {each.name} is there",
            }.get(
                each.replicas,
                f", though {each.replicas} of {each.name} are there: one takes over within seconds",
            )
            yield Wrong(f"nobody leads {each.name}{there}: {meanwhile[each.name]}", see)
        elif each.leads_since is None:
            yield Wrong(f"{each.leader} holds the lease of {each.name} and does not lead yet", see)
        elif not each.complete:
            yield Wrong(
                f"{each.name} has not written all it knows yet: until then nothing is judged by its absence",
                see,
            )
        for trouble in each.troubles:
            yield Wrong(f"{each.name}: {trouble}", place.see_api())
        for mistake in each.mistakes:
            yield Wrong(f"{mistake.reason}: {mistake.message}", of_reason(mistake.reason))
    for told in of(sight.told, intent.Leader):
        if told.message.silent:
            yield Wrong(
                f"since the bus was lost {few(told.message.silent)} has not told what it still has: "
                "what it may hold is given to nobody",
                "start its plumber, or delete its Node object if it is gone for good",
            )


def of_nodes(
    nodes: Sequence[NodeState], needed: Mapping[str, set[str]], place: Place
) -> Iterator[Wrong]:
    """Nodes whose services are not there although something hangs on them."""
    for silent, why in (
        ([n.name for n in nodes if n.plumber == "silent"], ""),
        (
            [n.name for n in nodes if n.plumber == "hangs"],
            ", though the bus holds its connection (it hangs, or its node is cut off)",
        ),
    ):
        if silent:
            yield Wrong(
                f"no heartbeat of the plumber on {few(silent)}{why}: links there go on, changes wait",
                place.start("plumber", silent[0]),
            )
    never = [n.name for n in nodes if n.plumber == "none" and "plumber" in needed.get(n.name, ())]
    if never:
        yield Wrong(
            f"no plumber has ever spoken on {few(never)}, and Pods there ask for network services",
            place.start("plumber", never[0]),
        )
    yield from _without_dns(nodes, needed, place)
    unknown = sorted(needed.keys() - {each.name for each in nodes})
    if unknown:
        yield Wrong(
            f"Pods ask for network services on {few(unknown)}, of which Kubernetes tells nothing",
            "see: kubectl get nodes; " + place.see("watcher"),
        )


def _without_dns(
    nodes: Sequence[NodeState], needed: Mapping[str, set[str]], place: Place
) -> Iterator[Wrong]:
    is_used = any(each.dns == "alive" for each in nodes)
    gone = [
        each.name
        for each in nodes
        if each.dns == "gone"
        and ("dns" in needed.get(each.name, ()) or (is_used and each.plumber != "none"))
    ]
    if gone:
        yield Wrong(
            f"no dns service follows the bus on {few(gone)}: Pods there ask the cluster's DNS only",
            place.start("dns", gone[0]),
        )


def of_lag(lag: Lag, place: Place) -> Iterator[Wrong]:
    """Somebody is behind for longer than a restart takes."""
    if lag.oldest_unanswered is not None and lag.oldest_unanswered > PATIENCE_SECONDS:
        yield Wrong(
            f"{_counted(lag.unanswered, 'request')} without an answer of ipam, "
            f"the oldest for {lag.oldest_unanswered:.0f} s",
            place.see("ipam"),
        )
    if lag.pending is not None and lag.pending > MOST_PENDING:
        yield Wrong(
            f"{lag.pending} messages wait for their readers",
            "look again: if it grows, NATS or a service is too slow; " + place.see("nats"),
        )


def of_versions(versions: Mapping[str, int]) -> Iterator[Wrong]:
    """Processes of several versions: an upgrade on its way, or one that is stuck."""
    if len(versions) > 1:
        told = ", ".join(f"{count} of {version}" for version, count in versions.items())
        yield Wrong(
            f"processes of several versions: {told}",
            "wait for the upgrade, or see what holds it up: kubectl -n nsm-system get pods",
        )


def of_words(services: Iterable[ServiceState]) -> Iterator[Wrong]:
    """What leaders see that is no fault of the mesh."""
    for each in services:
        for note in each.notes:
            yield Wrong(note, "its condition and Events say what is wrong with it")


def of_endpoints(told: Iterable[Told]) -> Iterator[Wrong]:
    """Edits of endpoints that have no effect; told once, however many Pods an endpoint has."""
    found: dict[tuple[str, str], str] = {}
    for each in of(told, intent.Endpoint):
        endpoint: intent.Endpoint = each.message
        for words in endpoint.edited_in_vain:
            found[endpoint.pod.namespace, endpoint.endpoint] = words
    for (namespace, name), words in sorted(found.items())[:_NAMED]:
        remedy = f"correct it: kubectl -n {namespace} describe networkserviceendpoint {name}"
        yield Wrong(f"endpoint {namespace}/{name}: {words}", remedy)
    if len(found) > _NAMED:
        yield Wrong(
            f"{_counted(len(found) - _NAMED, 'endpoint')} more of which a newer spec is refused",
            "kubectl get networkserviceendpoints --all-namespaces",
        )


def of_requests(judged: Iterable[Judged]) -> Iterator[Wrong]:
    """Requests that are not connected for a reason that an operator has to mend."""
    return _told(judged, users=False)


def of_users(judged: Iterable[Judged]) -> Iterator[Wrong]:
    """Those that wait for who wrote the annotation, the endpoint or the Pod."""
    return _told(judged, users=True)


def _told(judged: Iterable[Judged], *, users: bool) -> Iterator[Wrong]:
    """By what they have become and why."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for each in judged:
        shown = each.item.shown
        waits = shown.state == "waiting"
        if shown.state == "ready":
            continue
        if each.age < PATIENCE_SECONDS and (waits or not users):
            continue
        if waits and each.facts.grant is None:
            continue  # told by of_lag
        if is_users(shown.reason) != users:
            continue
        groups.setdefault((shown.state, shown.reason), []).append(each)
    for (state, reason), found in sorted(groups.items(), key=lambda item: -len(item[1])):
        yield Wrong(
            f"{_counted(len(found), 'request')} {state}, {reason}: {_named(found)}",
            _remedy(reason, found),
        )


def of_covered(judged: Iterable[Judged]) -> Iterator[Wrong]:
    """Connections that a prefix in use covers, and for which nothing else is free."""
    found = [each for each in judged if each.item.covered]
    if found:
        yield Wrong(
            f"{_counted(len(found), 'request')} connected, {PREFIX_COLLISION}, for nothing else is free: "
            f"{_named(found)}, although {found[0].item.covered}",
            _remedy(PREFIX_COLLISION, found),
        )


def _named(found: Sequence[Judged]) -> str:
    names = [
        f"{each.request.pod.namespace}/{each.request.pod.name} {each.request.interface}"
        for each in found[:_NAMED]
    ]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{', '.join(names)}{more}"


def _remedy(reason: str, found: Sequence[Judged]) -> str:
    first = found[0].request.pod
    return f"{of_reason(reason)}; nsm explain {first.namespace}/{first.name}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
