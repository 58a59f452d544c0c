"""What packets of one Pod mean under its profile, and the servers of that profile.

Names repeat, so readings are remembered: of small packets only, so that a Pod cannot fill our memory with them.
"""

from typing import NamedTuple

from schemas.state import Upstream
from services.dns.core import queries, searching
from services.dns.core.queries import Fault, Query
from services.dns.core.scope import Scope
from services.dns.model import CLUSTER, Profile
from services.dns.service.answering.opening import family_of
from services.dns.service.answering.outlet import Outlet
from services.dns.service.answering.upstreams import Server, Where, places

_REMEMBERED = 1024  # packets
_REMEMBERED_BYTES = 512  # of a packet


class Plan(NamedTuple):
    """One query, and whom to ask."""

    query: Query
    servers: tuple[Server, ...]


class Plans:
    """Whom to ask for what, for one Pod."""

    def __init__(self, outlet: Outlet, profile: Profile) -> None:
        self._outlet = outlet
        self._servers: dict[Where, Server] = {}
        self._remembered: dict[bytes, Plan] = {}
        self._servers_by_mask: dict[int, tuple[Server, ...]] = {}
        self.replace(profile)

    def replace(self, profile: Profile) -> None:
        """Ask others from now on. Servers that stay keep their sockets and what is known of them."""
        self._profile = profile
        self._scope = Scope(profile)
        self._remembered.clear()
        self._servers_by_mask.clear()
        wanted = {where for upstream in profile.upstreams for where in places(upstream)}
        gone = [server for where, server in self._servers.items() if where not in wanted]
        self._servers = {w: s for w, s in self._servers.items() if w in wanted}
        for server in gone:
            server.close()

    def plan_for(self, packet: bytes) -> Plan | Fault:
        """What a client's packet asks, and of whom."""
        behind_id = packet[2:]
        known = self._remembered.get(behind_id)
        if known is not None:
            return known
        query = queries.parse(packet)
        if isinstance(query, Fault):
            return query
        mask = self._scope.mask_for(query.name)
        servers = self._servers_by_mask.get(mask)
        if servers is None:
            servers = self._servers_by_mask[mask] = self._servers_of(self._scope.of(mask))
        plan = Plan(query, servers)
        if len(packet) <= _REMEMBERED_BYTES:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[behind_id] = plan
        return plan

    def searches(self, query: Query) -> list[Plan]:
        """What else the query may mean, best first."""
        found = searching.candidates(query, self._profile.upstreams, self._scope)
        return [Plan(each.query, self._servers_of((each.upstream,))) for each in found]

    def sweep(self, now: float) -> bool:
        """Let go of idle sockets; False: none is open."""
        open_ones = [server for server in self._servers.values() if server.sweep(now)]
        return bool(open_ones)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        self._remembered.clear()

    def _servers_of(self, upstreams: tuple[Upstream, ...]) -> tuple[Server, ...]:
        found: dict[Where, Server] = {}
        for upstream in upstreams:
            for where in places(upstream):
                found[where] = self._servers.get(where) or self._new_server(upstream, where)
        return tuple(found.values())

    def _new_server(self, upstream: Upstream, where: Where) -> Server:
        family = family_of(where.address)
        assert family is not None  # places lets no other through
        kind = CLUSTER if upstream.name == CLUSTER else "service"
        server = self._servers[where] = Server(self._outlet, where, family=family, kind=kind)
        return server
