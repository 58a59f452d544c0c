"""Whether the Pod's queries reach the DNS that a connection gives it, and how its servers are."""

from typing import Any

from cli.dns import health
from cli.explain.model import Evidence, Stage
from cli.remedies import Place, of_reason
from schemas import grant, intent, state
from services.watcher.core import resolving
from services.watcher.core.report import Facts

_BAD = frozenset({"dead", "unreachable", "mute"})


def resolved(found: Evidence, request: intent.Request, facts: Facts, place: Place) -> Stage:
    """DNS of one connection."""
    granted = facts.grant
    assert granted is not None
    if granted.dns is None:
        why = "the network service has no DNS" if request.dns else "the Pod opted out of DNS"
        return Stage(name="resolved", state="none", lines=(why,))
    lines = [_scopes(granted.dns), *_mode(facts.resolver)]
    servers = _servers(found, granted)
    lines += [_server(each) for each in servers]
    if not servers and found.dns_note:
        lines.append(f"the node's dns service cannot be asked from here: {found.dns_note}")
    stage = Stage(name="resolved", state="ok", lines=tuple(lines))
    return _unserved(stage, found, facts, place) or _unanswered(stage, granted, servers) or stage


def _unserved(stage: Stage, found: Evidence, facts: Facts, place: Place) -> Stage | None:
    """Where the node's dns service does not answer the Pod."""
    granted = facts.grant
    assert granted is not None
    missing = resolving.unserved(granted, facts.resolver, was=None)
    if missing is not None:
        problem = f"{missing.reason}: {missing.message}"
        if missing.state == "failed":
            return stage.wrong(problem, of_reason(missing.reason))
        return stage.waits(problem, place.see("dns", granted.node))
    if found.dns_nodes is not None and granted.node not in found.dns_nodes:
        return stage.wrong(
            f"the dns service of node {granted.node} does not follow the bus: what it said is of before",
            place.start("dns", granted.node),
        )
    if found.dns_unheard == granted.node:
        return stage.wrong(
            f"the dns service of node {granted.node} holds its connection to the bus and does not answer: it hangs",
            place.start("dns", granted.node),
        )
    return None


def _unanswered(stage: Stage, granted: grant.Connection, servers: list[Any]) -> Stage | None:
    """Where nobody answers the node's dns service."""
    if not servers or not all(_is_bad(each) for each in servers):
        return None
    first = next((each for each in servers if each["state"] in _BAD), servers[0])
    what = f"DNS server {first['server']} of the network service"
    remedy = _of_server(first["server"], granted)
    if first["state"] in _BAD:
        return stage.wrong(f"{what} is {first['state']}", remedy)
    return stage.waits(f"{what} is {health(first)}", remedy)


def _is_bad(server: Any) -> bool:
    """One that nobody asked yet, or whose first answer is on its way, is not."""
    return server["state"] in _BAD or (server["state"] == "unheard" and server["unanswered"] > 0)


def _of_server(server: str, granted: grant.Connection) -> str:
    pod = f"Pod {granted.server.pod.namespace}/{granted.server.pod.name}"
    if server in {each.partition("/")[0] for each in granted.server.addresses}:
        return f"see what serves port 53 in {pod}"
    return (
        f"correct spec.dns.servers of the NetworkServiceEndpoint, which names it, or see whether {server} "
        f"serves port 53 and is reached by {pod}"
    )


def _scopes(dns: intent.Dns) -> str:
    names = ", ".join(dns.domains) if dns.domains else "every name"
    return f"{', '.join(dns.servers)} for {names}"


def _mode(resolver: state.Resolver | None) -> list[str]:
    if resolver is None:
        return []
    mode = f", {resolver.mode}" if resolver.mode else ""
    return [f"port 53 of the Pod: {resolver.state}{mode}"]


def _servers(found: Evidence, granted: grant.Connection) -> list[Any]:
    answers = (found.dns or {}).get("answers") or {}
    interface = granted.client.interface
    return [each for each in answers.get("servers", ()) if each["interface"] == interface]


def _server(each: Any) -> str:
    last = each.get("last")
    heard = f", last said {last} {each.get('last_seconds_ago')} s ago" if last else ""
    rtt = f", {each['rtt_ms']} ms" if each.get("rtt_ms") is not None else ""
    return f"server {each['server']}: {health(each)}{heard}{rtt}"
