"""Everything that there is to know of one Pod, asked of whoever knows it: the bus, the API server, its node.

Of the bus only what is about the Pod, and who could serve it: in a large mesh too it takes moments.
"""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

from cli import cluster, dns, labs, offering, plumb
from cli.bus import reading
from cli.explain.model import Evidence
from cli.problems import Problem, Unheard
from cli.status import survey
from cli.status.survey import Told
from schemas import intent, subjects
from services._runtime import streams
from services.watcher.model import Namespace, Pod

_OF_POD = (
    subjects.RequestKey,
    subjects.ConnectionKey,
    subjects.RefusalKey,
    subjects.StatusKey,
    subjects.ResolverKey,
)
_OF_ALL = (
    subjects.EndpointKey,
    subjects.NetworkServiceKey,
    subjects.LeaseKey,
    subjects.AliveKey,
)
_NODE_SECONDS = 3.0  # what a node's service tells takes milliseconds
_PLUMBER_PORT, _DNS_PORT = "9641", "9642"  # of a node, as the manifests have them


def gather(server: str, namespace: str, name: str, *, is_lab: bool, kubeconfig: str) -> Evidence:
    """All of it. Raises Problem where the bus is not to be reached."""
    told, malformed, dns_nodes = asyncio.run(_read(server, namespace, name))
    pod, home, api_note, is_away = _from_api(namespace, name, is_lab=is_lab, kubeconfig=kubeconfig)
    plumbers, plumber_note = _from_plumbers(f"{namespace}/{name}")
    homes = offering.homes_of_unserved(each.message for each in told.values())
    # In its own namespace may be one that it is to serve as a Pod of, and that is refused.
    offered = cluster.endpoints_in(homes | {namespace}, is_lab=is_lab, kubeconfig=kubeconfig)
    node = os.environ.get("PLUMBER_NODE") or os.environ.get("DNS_NODE") or (pod.node if pod else "")
    answer, dns_note, is_unheard = _from_dns(f"{namespace}/{name}", node)
    return Evidence(
        namespace=namespace,
        name=name,
        told=told,
        pod=pod,
        home=home,
        endpoints=offered,
        plumbers=tuple(plumbers),
        dns=answer,
        api_note=api_note,
        is_api_away=is_away,
        plumber_note=plumber_note,
        dns_note=dns_note,
        dns_unheard=node if is_unheard else "",
        dns_nodes=dns_nodes,
        malformed=malformed,
    )


def elsewhere(server: str, name: str) -> list[str]:
    """Pods of that name in any namespace that ask for something, as NAMESPACE/NAME."""

    async def read() -> list[Told]:
        async with reading(server) as reader:
            kind = subjects.RequestKey
            filters = [(streams.stream_of_kind(kind), kind.of_pod("", name))]
            return (await survey.read_all(reader, filters))[0]

    found = {
        (t.message.pod.namespace, t.message.pod.name)
        for t in survey.of(asyncio.run(read()), intent.Request)
    }
    return ["/".join(each) for each in sorted(found)]


async def _read(
    server: str, namespace: str, name: str
) -> tuple[dict[subjects.Key, Told], tuple[str, ...], frozenset[str] | None]:
    async with reading(server) as reader:
        told, malformed = await survey.read_all(reader, _filters(namespace, name))
        more, bad = await survey.read_all(reader, _of_endpoint_pod(told, namespace, name))
        followers = await survey.followers_of(reader, [streams.STATE])
    by_key = {each.key: each for each in (*told, *more)}
    serving = None
    if followers is not None:
        serving = frozenset(f.node for f in followers if f.role == "dns" and f.bound)
    return by_key, (*malformed, *bad), serving


def _filters(namespace: str, name: str) -> Iterator[tuple[str, str]]:
    for kind in _OF_POD:
        yield streams.stream_of_kind(kind), kind.of_pod(namespace, name)
    for each in _OF_ALL:
        yield streams.stream_of_kind(each), each.all()
    for stream in streams.LEADERS:
        yield stream, subjects.LeaderKey.all()


def _of_endpoint_pod(told: list[Told], namespace: str, name: str) -> Iterator[tuple[str, str]]:
    """What its node has, where clients may be connected to it."""
    for each in survey.of(told, intent.Endpoint):
        pod = each.message.pod
        if (pod.namespace, pod.name) == (namespace, name) and pod.node:
            for kind in (subjects.ConnectionKey, subjects.StatusKey):
                yield streams.stream_of_kind(kind), kind.all(pod.node)
            return


def _from_api(
    namespace: str, name: str, *, is_lab: bool, kubeconfig: str
) -> tuple[Pod | None, Namespace | None, str, bool]:
    """The Pod, its Namespace, why they are not known, and whether that is the API server's fault."""
    try:
        if is_lab and not kubeconfig:
            return *cluster.pod_of_lab(namespace, name), "", False
        return *cluster.pod_by_kubectl(namespace, name, kubeconfig), "", False
    except Problem as problem:
        return None, None, str(problem), isinstance(problem, Unheard)


def _from_plumbers(pod: str) -> tuple[list[Any], str]:
    try:
        host = _node_host()
        places = [plumb.Plumber(f"{host}:{_PLUMBER_PORT}")] if host else plumb.plumbers()
    except Problem as problem:
        return [], str(problem)
    found, notes = [], []
    for place in places:
        try:
            answer = plumb.asked(place, pod, seconds=_NODE_SECONDS)
        except Problem as problem:
            notes.append(str(problem))
        else:
            found += [] if answer is None else [answer]
    return found, "; ".join(notes)


def _from_dns(pod: str, node: str) -> tuple[Any | None, str, bool]:
    """What it says of the Pod, why nothing, and whether it ought to have."""
    try:
        services = _dns_services(node)
        return dns.ask_all(services, f"pod={pod}&name=.", seconds=_NODE_SECONDS), "", False
    except Problem as problem:
        return None, str(problem), isinstance(problem, Unheard)


def _dns_services(node: str) -> list[dns.Service]:
    """Those that can be asked from here of a Pod on `node`. Raises Problem."""
    host = _node_host()
    return [dns.Service(f"{host}:{_DNS_PORT}")] if host else dns.lab_services(node)


def _node_host() -> str:
    """In a Pod of ours in a node's network: that node; empty: there is a lab. Raises Problem: neither."""
    host, _, port = os.environ.get("NSM_HEALTH_ADDRESS", "").rpartition(":")
    if port in (_PLUMBER_PORT, _DNS_PORT):
        return host
    try:
        labs.running()
    except Problem as problem:
        raise Problem("only the plumber's Pod of its node can ask them") from problem
    return ""
