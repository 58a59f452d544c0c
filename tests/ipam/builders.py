"""What decisions of ipam are tried on: Pods, requests, endpoints, and a state that knows them."""

from ipaddress import ip_network

from schemas import intent
from schemas.grant import Connection
from schemas.state import NodeFacts
from services.ipam.core.deciding import Granted, Refused, decide
from services.ipam.core.settling import settle
from services.ipam.core.state import State, Use, addresses_of


def a_pod(name, *, node="node1", namespace="default", uid=None, ips=(), node_ready=True):
    return intent.PodRef(
        namespace=namespace,
        name=name,
        uid=uid or f"uid-{name}",
        node=node,
        ips=ips,
        node_ready=node_ready,
    )


def a_request(pod="client", interface="nsm-1", service="vpn", namespace="", **kwargs):
    labels, dns = kwargs.pop("labels", {}), kwargs.pop("dns", True)
    return intent.Request(
        pod=a_pod(pod, **kwargs),
        interface=interface,
        network_service=service,
        network_service_namespace=namespace,
        labels=labels,
        dns=dns,
    )


def an_endpoint(name="vpn", *, pod=None, prefixes=("172.16.1.0/24",), services=("vpn",), **kwargs):
    names = ("labels", "routes", "policies", "dns", "ready", "leaving")
    fields = {k: kwargs.pop(k) for k in names if k in kwargs}
    fields.setdefault("ready", True)
    spec = {k: kwargs.pop(k) for k in ("addressing", "exclude_prefixes") if k in kwargs}
    return intent.Endpoint(
        endpoint=name,
        pod=a_pod(pod or f"{name}-pod", **kwargs),
        network_services=services,
        ipam=intent.IpamSpec(prefixes=prefixes, **spec),
        **fields,
    )


def facts(node, *, underlay="192.0.2.{}", mtu=1500, mechanisms=("veth", "vxlan")):
    return NodeFacts(
        node=node, underlay_address=underlay.format(node[-1]), mtu=mtu, mechanisms=mechanisms
    )


def a_state(*endpoints, excluded=(), services=(), nodes=("node1", "node2"), supernets=()):
    state = State(supernets)
    state.nodes |= {*nodes}
    for endpoint in endpoints:
        state.put_endpoint(endpoint.key, endpoint)
    for service in services:
        state.put_network_service(service.key, service)
    state.put_excluded(Use(ip_network(prefix), by) for prefix, by in excluded)
    return state


def granted(state, request) -> Connection:
    """Decide as the service does: what stands is passed in, a grant enters the state."""
    previous = state.grants.get(request.key)
    result = decide(
        state, request, previous=previous, revision=previous.revision + 1 if previous else 1
    )
    assert isinstance(result, Granted), result
    state.grant(result.connection)
    return result.connection


def refused(state, request):
    previous = state.grants.get(request.key)
    result = decide(state, request, previous=previous, revision=1)
    assert isinstance(result, Refused), result
    return result.refusal


def pair(connection):
    (server,) = addresses_of(connection.server)
    (client,) = addresses_of(connection.client)
    return str(server), str(client)


def settled(state, request, *, refusal=None, reported=None, readdress=False):
    """As the service does, with nothing refused so far."""
    return settle(state, request, refusal=refusal, reported=reported, readdress=readdress)


def uses(*prefixes, by="user"):
    return [Use(ip_network(prefix), by) for prefix in prefixes]
