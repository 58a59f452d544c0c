"""Resolving: whether a Pod's queries reach the DNS that a connection gives it.

A resolver speaks for the whole Pod; a connection is served where the resolver lists it as it was granted.
Only its node's word counts: who was served stays so while nobody says otherwise, so that neither a dns
service that starts anew nor a bus that was lost makes a healthy Pod unready.
"""

import msgspec

from schemas.grant import Connection
from schemas.intent import Dns
from schemas.state import Resolver, Upstream
from services.watcher.model import ShownDns

PENDING = "ResolverPending"
_FAILED = "DNSCaptureFailed"


class Unserved(msgspec.Struct, frozen=True, kw_only=True):
    """Why the DNS of a connection is not there, although its link is."""

    state: str  # waiting, failed
    reason: str
    message: str


def shown(dns: Dns | None) -> ShownDns | None:
    """DNS as a Pod's status says it."""
    if dns is None:
        return None
    return ShownDns(nameservers=dns.servers, domains=dns.domains, search=dns.search_domains)


def unserved(
    grant: Connection, resolver: Resolver | None, *, was: ShownDns | None
) -> Unserved | None:
    """Why the DNS of `grant` is not served; None: it is, or there is none.

    `was` is what the Pod shows as served through this connection.
    """
    if grant.dns is None:
        return None
    if resolver is None or resolver.uid != grant.client.pod.uid:
        return None if was == shown(grant.dns) else _waiting(_silent(grant))
    if resolver.state == "failed":
        told = resolver.message or "no reason given; see the log of the node's dns service"
        reason = resolver.reason or _FAILED
        return Unserved(state="failed", reason=reason, message=f"its DNS is not served: {told}")
    if resolver.state == "pending":
        return _waiting(resolver.message or _silent(grant))
    interface = grant.client.interface
    listed = next((each for each in resolver.upstreams if each.interface == interface), None)
    if listed is None:
        return _waiting(_silent(grant))
    if listed.revision < grant.revision and not _says_the_same(listed, grant.dns):
        return _waiting(f"the dns service of node {grant.node} still serves an older grant of it")
    return None


def _waiting(message: str) -> Unserved:
    return Unserved(state="waiting", reason=PENDING, message=message)


def _silent(grant: Connection) -> str:
    return f"the dns service of node {grant.node} has not answered yet; is it running?"


def _says_the_same(listed: Upstream, granted: Dns) -> bool:
    return (
        listed.servers == granted.servers
        and set(listed.domains) == set(granted.domains)
        and listed.search_domains == granted.search_domains
    )
