"""From what was seen to what it means. Pure: the clock and the place come as arguments.

What is wrong is told in the order in which it causes the rest: the bus, who leads, the nodes, then the requests.
"""

from collections.abc import Iterable, Iterator

from cli import offering
from cli.remedies import Place
from cli.status import complaints
from cli.status.counting import Judged, count, judge_all, lag
from cli.status.model import NodeState, ServiceState, Status
from cli.status.survey import Follower, Sight, Told, of, seconds
from schemas import grant, intent, live, state
from schemas.subjects import StatusKey

LEADERS = ("watcher", "ipam")


def judge(sight: Sight, place: Place) -> Status:
    """Everything that can be told of a sight."""
    why = offering.why_of(sight.endpoints, (each.message for each in sight.told))
    judged = judge_all(sight.told, sight.now, why)
    services = tuple(_service(name, sight) for name in LEADERS)
    nodes = tuple(_nodes(sight))
    counts, behind = count(judged, sight.told), lag(judged, sight.followers)
    versions = _versions(sight)
    wrong = (
        *complaints.of_streams(sight, place),
        *complaints.of_services(services, sight, place),
        *complaints.of_nodes(nodes, needs(judged), place),
        *complaints.of_lag(behind, place),
        *complaints.of_versions(versions),
        *complaints.of_requests(judged),
    )
    return Status(
        well=not wrong,
        wrong=wrong,
        noted=(
            *complaints.of_words(services),
            *complaints.of_endpoints(sight.told),
            *complaints.of_users(judged),
            *complaints.of_covered(judged),
        ),
        at=sight.now,
        url=sight.url,
        server=sight.server,
        role=sight.role,
        login_seconds=sight.login_seconds,
        versions=versions,
        services=services,
        nodes=nodes,
        streams=sight.streams,
        counts=counts,
        lag=behind,
    )


def needs(judged: Iterable[Judged]) -> dict[str, set[str]]:
    """Which of its services each node needs for what is asked and granted."""
    found: dict[str, set[str]] = {}
    for each in judged:
        found.setdefault(each.request.pod.node, set()).add("plumber")
        granted = each.facts.grant
        if granted is not None:
            found.setdefault(granted.server.pod.node, set()).add("plumber")
            if granted.dns is not None:
                found[each.request.pod.node].add("dns")
    return found


def _service(name: str, sight: Sight) -> ServiceState:
    own = None
    if sight.followers is not None:
        own = [each for each in sight.followers if each.role == name and each.bound]
    lease = _newest(each for each in of(sight.told, live.Lease) if each.message.service == name)
    guard = _newest(each for each in of(sight.told, intent.Leader) if each.message.service == name)
    is_leading = guard and lease and guard.message.holder == lease.message.holder
    return ServiceState(
        name=name,
        replicas=None if own is None else len({each.process for each in own}),
        leader=lease.message.holder if lease else "",
        leads_since=(seconds(guard.message.since) or guard.at) if guard and is_leading else None,
        heartbeat_age=max(0.0, sight.now - lease.at) if lease else None,
        complete=guard.message.complete if guard and is_leading else None,
        pending=None if own is None else sum(each.pending for each in own),
        versions=() if own is None else _versions_of(own),
        troubles=lease.message.word.troubles if lease else (),
        mistakes=lease.message.word.mistakes if lease else (),
        notes=lease.message.word.notes if lease else (),
    )


def _nodes(sight: Sight) -> Iterator[NodeState]:
    facts = {each.message.node: each.message for each in of(sight.told, state.NodeFacts)}
    alive = {each.message.node: each.at for each in of(sight.told, live.Alive)}
    known = {
        each.message.name
        for each in of(sight.told, intent.PrefixesInUse)
        if each.message.source == "node"
    }
    # Facts outlive their node: where Kubernetes' word is there, it counts.
    names = known | alive.keys() if known else facts.keys() | alive.keys()
    ends = _ends(sight)
    captured = _captured(sight)
    for name in sorted(names):
        own = [each for each in sight.followers or () if each.node == name and each.bound]
        has_dns = any(each.role == "dns" for each in own)
        said = facts.get(name) or state.NodeFacts(node=name, mtu=0)
        clients, endpoints, not_ready = ends.get(name, (0, 0, 0))
        yield NodeState(
            name=name,
            plumber=_plumber(own, is_alive=name in alive, is_known=name in facts),
            dns="?" if sight.followers is None else "alive" if has_dns else "gone",
            heartbeat_age=max(0.0, sight.now - alive[name]) if name in alive else None,
            clients=clients,
            endpoints=endpoints,
            not_ready=not_ready,
            captured=captured.get(name, 0),
            mtu=said.mtu,
            mechanisms=said.mechanisms,
            kernel=said.kernel,
            versions=_versions_of(own) or ((said.version,) if said.version else ()),
        )


def _plumber(own: Iterable[Follower], *, is_alive: bool, is_known: bool) -> str:
    if is_alive:
        return "alive"
    if any(each.role == "plumber" for each in own):
        return "hangs"
    return "silent" if is_known else "none"


def _ends(sight: Sight) -> dict[str, tuple[int, int, int]]:
    """By node: clients' ends, endpoint Pods' ends, those that are not ready."""
    statuses = {
        each.key: each.message
        for each in of(sight.told, state.Status)
        if isinstance(each.key, StatusKey)
    }
    found: dict[str, tuple[int, int, int]] = {}
    for each in of(sight.told, grant.Connection):
        granted: grant.Connection = each.message
        pod = granted.client.pod
        key = StatusKey(granted.node, pod.namespace, pod.name, granted.client.interface)
        said = statuses.get(key)
        for end, is_client in ((granted.client, True), (granted.server, False)):
            if not end.is_on(granted.node):
                continue
            section = said and (said.client if is_client else said.server)
            is_ready = section is not None and section.state == "ready"
            clients, endpoints, not_ready = found.get(granted.node, (0, 0, 0))
            found[granted.node] = (
                clients + is_client,
                endpoints + (not is_client),
                not_ready + (not is_ready),
            )
    return found


def _captured(sight: Sight) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in of(sight.told, state.Resolver):
        if each.message.state == "serving":
            found[each.message.node] = found.get(each.message.node, 0) + 1
    return found


def _versions(sight: Sight) -> dict[str, int]:
    """Processes by version."""
    processes = {
        each.process: each.version or "unknown" for each in sight.followers or () if each.bound
    }
    found: dict[str, int] = {}
    for version in sorted(processes.values()):
        found[version] = found.get(version, 0) + 1
    return found


def _versions_of(followers: Iterable[Follower]) -> tuple[str, ...]:
    return tuple(sorted({each.version for each in followers if each.version}))


def _newest(told: Iterable[Told]) -> Told | None:
    return max(told, key=lambda each: each.at, default=None)
