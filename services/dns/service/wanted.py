"""Whose queries are to be answered, and by whom: grants in, profiles out. Decides; waits for nothing."""

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from schemas.grant import Connection
from schemas.intent import PodRef
from schemas.state import Upstream
from schemas.subjects import ConnectionKey, ResolverKey
from services.dns.model import CLUSTER


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """One Pod whose queries we are to answer."""

    uid: str
    upstreams: tuple[Upstream, ...]  # the cluster's first


def resolver_of(key: ConnectionKey) -> ResolverKey:
    """The Pod that a connection belongs to."""
    return ResolverKey(key.node, key.namespace, key.pod)


class Granted:
    """The grants of this node's mirror, by client Pod."""

    def __init__(
        self,
        items: Mapping[Any, Any],
        cluster_servers: tuple[str, ...],
        *,
        node_servers: tuple[str, ...] = (),
        node_searches: tuple[str, ...] = (),
        cluster_domain: str = "cluster.local",
    ) -> None:
        self._items = items
        self._cluster = cluster_servers
        self._node = node_servers
        self._searches = node_searches
        self._domain = cluster_domain
        self._keys: dict[ResolverKey, set[ConnectionKey]] = {}

    def note(self, key: ConnectionKey) -> ResolverKey:
        """The grant of a connection changed."""
        pod = resolver_of(key)
        keys = self._keys.setdefault(pod, set())
        if key in self._items:
            keys.add(key)
        else:
            keys.discard(key)
        if not keys:
            del self._keys[pod]
        return pod

    def pods(self) -> set[ResolverKey]:
        return set(self._keys)

    def clients(self) -> list[PodRef]:
        """The Pods of this node whose networks are asked for."""
        return [
            grant.client.pod
            for pod in self._keys
            for grant in self._of(pod)
            if grant.client.is_on(pod.node) and _usable(grant)
        ]

    def uids(self, pod: ResolverKey) -> set[str]:
        return {grant.client.pod.uid for grant in self._of(pod)}

    def wanted(self, pod: ResolverKey, *, living: Collection[str]) -> Wanted | None:
        """What a Pod is to get; None: nothing. Of two Pods of one name, the `living` one, else the newer."""
        providing = [g for g in self._of(pod) if g.client.is_on(pod.node) and _usable(g)]
        if not providing:
            return None
        uid = max(providing, key=lambda g: (g.client.pod.uid in living, g.revision)).client.pod.uid
        own = sorted(
            (g for g in providing if g.client.pod.uid == uid), key=lambda g: g.client.interface
        )
        ref = own[0].client.pod
        cluster = Upstream(
            name=CLUSTER, servers=self._servers_of(ref), search_domains=self._searches_of(ref)
        )
        return Wanted(uid=uid, upstreams=(cluster, *(_upstream(g) for g in own)))

    def _servers_of(self, pod: PodRef) -> tuple[str, ...]:
        """Those of the Pod's own resolv.conf, as its dnsPolicy and dnsConfig make it."""
        servers = {"None": (), "Default": self._node or self._cluster}.get(
            pod.dns_policy, self._cluster
        )
        # Its own loopback is not reached over the interface that cluster servers are asked over.
        named = tuple(
            text for text in pod.nameservers if _is_address(text) and not _is_loopback(text)
        )
        return tuple(dict.fromkeys((*servers, *named))) or self._cluster

    def _searches_of(self, pod: PodRef) -> tuple[str, ...]:
        """The search list of its resolv.conf."""
        if pod.dns_policy == "None":
            return pod.searches
        domain = self._domain
        cluster = (f"{pod.namespace}.svc.{domain}", f"svc.{domain}", domain)
        first = () if pod.dns_policy == "Default" else cluster
        return tuple(dict.fromkeys((*first, *self._searches, *pod.searches)))

    def _of(self, pod: ResolverKey) -> Iterable[Connection]:
        for key in self._keys.get(pod, ()):
            if isinstance(grant := self._items.get(key), Connection):
                yield grant


def _usable(grant: Connection) -> bool:
    return grant.dns is not None and any(_is_address(server) for server in grant.dns.servers)


def _upstream(grant: Connection) -> Upstream:
    assert grant.dns is not None
    return Upstream(
        name=f"{grant.network_service_namespace}/{grant.network_service}",
        servers=tuple(server for server in grant.dns.servers if _is_address(server)),
        domains=grant.dns.domains,
        search_domains=grant.dns.search_domains,
        interface=grant.client.interface,
        revision=grant.revision,
    )


def _is_loopback(text: str) -> bool:
    return ipaddress.ip_address(text).is_loopback


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
