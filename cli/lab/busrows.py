"""What the bus holds, as rows for people. Pure."""

from collections.abc import Callable, Sequence
from typing import Any

from cli.ipam import count
from schemas import grant, intent, state

# what people type -> the kind in a subject
KINDS = {
    "requests": "request",
    "endpoints": "endpoint",
    "connections": "connection",
    "refusals": "refusal",
    "statuses": "status",
    "resolvers": "resolver",
    "pools": "pool",
    "prefixes": "prefix",
    "cluster": "cluster",
    "leaders": "leader",
}

Found = Sequence[tuple[Any, Any]]


def select(found: Found, *, namespace: str, name: str) -> list[tuple[Any, Any]]:
    """Those of a namespace (what has none always counts), and of a Pod, endpoint or service."""
    return [
        (key, message)
        for key, message in found
        if (not namespace or getattr(key, "namespace", namespace) == namespace)
        and (not name or name in (getattr(key, f, "") for f in ("pod", "endpoint", "service")))
    ]


def once(found: Found) -> list[tuple[Any, Any]]:
    """Without the copies of connections for the endpoint Pods' nodes, where the connection itself is there."""
    whole = {_place(key) for key, message in found if not _is_copy(message)}
    return [each for each in found if not _is_copy(each[1]) or _place(each[0]) not in whole]


def _is_copy(message: Any) -> bool:
    return isinstance(message, grant.Connection) and message.node != message.client.pod.node


def _place(key: Any) -> tuple[str, ...]:
    """What a connection and its copy have in common."""
    return tuple(getattr(key, field, "") for field in ("kind", "namespace", "pod", "interface"))


def kind_of(name: str) -> str | None:
    """What people type, `resolver` too, as a key of KINDS."""
    return next((many for many, one in KINDS.items() if name.lower() in (many, one)), None)


def table(kind: str, found: Found) -> tuple[list[str], list[list[str]]]:
    headers, cells = _TABLES[kind]
    return list(headers), [[cell or "-" for cell in cells(message)] for _, message in found]


def _connection(connection: grant.Connection) -> list[str]:
    client, server = connection.client, connection.server
    return [
        _pod(client.pod),
        client.interface,
        _addresses(client.addresses),
        f"{connection.network_service_namespace}/{connection.network_service}",
        _pod(server.pod),
        server.interface,
        _addresses(server.addresses),
        ",".join(dict.fromkeys((client.pod.node, server.pod.node))),
        connection.mechanism,
        str(connection.revision),
    ]


def _request(request: intent.Request) -> list[str]:
    namespace = request.network_service_namespace
    return [
        _pod(request.pod),
        request.interface,
        request.network_service + (f"@{namespace}" if namespace else ""),
        ",".join(f"{key}={value}" for key, value in request.labels.items()),
        request.pod.node,
    ]


def _endpoint(endpoint: intent.Endpoint) -> list[str]:
    return [
        f"{endpoint.pod.namespace}/{endpoint.endpoint}",
        endpoint.pod.name,
        endpoint.pod.node,
        "leaving" if endpoint.leaving else "yes" if endpoint.ready else "no",
        ",".join(endpoint.network_services),
        ",".join(endpoint.ipam.prefixes),
    ]


def _refusal(refusal: grant.Refusal) -> list[str]:
    return [
        f"{refusal.namespace}/{refusal.pod}",
        refusal.interface,
        refusal.network_service,
        refusal.reason,
        refusal.message,
    ]


def _status(status: state.Status) -> list[str]:
    return [
        f"{status.namespace}/{status.pod}",
        status.interface,
        status.node,
        _end(status.client),
        _end(status.server),
        str(status.revision),
    ]


def _resolver(resolver: state.Resolver) -> list[str]:
    return [
        f"{resolver.namespace}/{resolver.pod}",
        resolver.node,
        resolver.state
        if resolver.state == "serving"
        else f"{resolver.state}: {resolver.reason} {resolver.message}".strip(),
        resolver.mode,
        "; ".join(_upstream(upstream) for upstream in resolver.upstreams),
    ]


def _upstream(upstream: state.Upstream) -> str:
    names = f" for {','.join(upstream.domains)}" if upstream.domains else ""
    return f"{upstream.name} {','.join(upstream.servers)}{names}"


def _pool(pool: grant.Pool) -> list[str]:
    return [
        f"{pool.namespace}/{pool.endpoint}",
        ",".join(prefix for each in pool.families for prefix in each.prefixes),
        *(
            "/".join(count(getattr(each, figure)) for each in pool.families)
            for figure in ("size", "used", "held", "excluded", "free")
        ),
        "yes" if pool.automatic else "no",
        "; ".join(f"{each.prefix} overlaps {each.overlaps}" for each in pool.collisions),
    ]


def _prefixes(found: intent.PrefixesInUse) -> list[str]:
    told = (f"{each.prefix} ({each.used_by})" for each in found.prefixes)
    return [found.source, found.name, "; ".join(told)]


def _cluster(found: grant.ClusterPrefixes) -> list[str]:
    return [",".join(found.prefixes)]


def _leader(leader: intent.Leader) -> list[str]:
    return [leader.service, leader.holder, "yes" if leader.complete else "no"]


def _pod(pod: intent.PodRef) -> str:
    return f"{pod.namespace}/{pod.name}"


def _addresses(addresses: Sequence[str]) -> str:
    return ",".join(address.split("/")[0] for address in addresses)


def _end(end: state.EndStatus | None) -> str:
    if end is None:
        return ""
    return end.state if end.state == "ready" else f"{end.state}: {end.reason} {end.message}".strip()


_Cells = Callable[[Any], list[str]]
_TABLES: dict[str, tuple[tuple[str, ...], _Cells]] = {
    "connections": (
        (
            "CLIENT",
            "INTERFACE",
            "ADDRESS",
            "NETWORK SERVICE",
            "ENDPOINT POD",
            "INTERFACE",
            "ADDRESS",
            "NODE",
            "MECHANISM",
            "REVISION",
        ),
        _connection,
    ),
    "requests": (("POD", "INTERFACE", "NETWORK SERVICE", "LABELS", "NODE"), _request),
    "endpoints": (("ENDPOINT", "POD", "NODE", "READY", "NETWORK SERVICES", "PREFIXES"), _endpoint),
    "refusals": (("POD", "INTERFACE", "NETWORK SERVICE", "REASON", "MESSAGE"), _refusal),
    "statuses": (("POD", "INTERFACE", "NODE", "CLIENT END", "ENDPOINT END", "REVISION"), _status),
    "resolvers": (("POD", "NODE", "STATE", "MODE", "UPSTREAMS"), _resolver),
    "pools": (
        (
            "ENDPOINT",
            "PREFIXES",
            "ADDRESSES",
            "USED",
            "HELD",
            "EXCLUDED",
            "FREE",
            "AUTOMATIC",
            "COLLISIONS",
        ),
        _pool,
    ),
    "prefixes": (("SOURCE", "NAME", "IN USE"), _prefixes),
    "cluster": (("PREFIXES",), _cluster),
    "leaders": (("SERVICE", "HOLDER", "COMPLETE"), _leader),
}
