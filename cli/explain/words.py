"""Words for what several stages speak of."""

from collections.abc import Mapping, Sequence

from cli.output import few
from schemas import grant, intent


def scope(request: intent.Request) -> str:
    """`@namespace`, if it says which."""
    return f"@{request.network_service_namespace}" if request.network_service_namespace else ""


def labels(of: Mapping[str, str]) -> str:
    """` with app=foo`, if there are any."""
    return f" with {', '.join(f'{k}={v}' for k, v in sorted(of.items()))}" if of else ""


def ends(granted: grant.Connection) -> str:
    """Both ends and the wire between them."""
    tunnel = f", VNI {granted.vni}" if granted.vni else ""
    return (
        f"{_bare(granted.client)} to {_bare(granted.server)}, {granted.mechanism}{tunnel}, "
        f"MTU {granted.mtu}, {granted.payload}, revision {granted.revision}"
    )


def routes(granted: grant.Connection) -> list[str]:
    """Where the client gets to by it, beside the other end."""
    found = [f"routes {_routes(granted.client.routes)}"] if granted.client.routes else []
    if granted.policies:
        found.append(f"{len(granted.policies)} policy routes; all: nsm ipam explain")
    return found


def _routes(of: Sequence[intent.Route]) -> str:
    return few([r.destination + (f" via {r.next_hop}" if r.next_hop else "") for r in of])


def _bare(end: grant.End) -> str:
    return ", ".join(each.partition("/")[0] for each in end.addresses) or "no address"
