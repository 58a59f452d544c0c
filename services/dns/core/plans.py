"""Whom one Pod asks for what: the servers of its profile, found by name."""

from collections.abc import Callable
from ipaddress import ip_address

from schemas.state import Upstream
from services.dns.core import searching
from services.dns.core.flights import Asked
from services.dns.core.queries import Query
from services.dns.core.scope import Scopes
from services.dns.core.servers import Server, Where
from services.dns.model import CLUSTER, Profile

Search = tuple[Query, Asked]


class Plans:
    """`new_server` makes the server of a place, of a kind (`cluster`, `service`)."""

    def __init__(
        self, profile: Profile, scopes: Scopes, new_server: Callable[[Where, str], Server]
    ) -> None:
        self._scopes = scopes
        self._new_server = new_server
        self._servers: dict[Where, Server] = {}
        self._by_mask: dict[int, Asked] = {}
        self._use(profile)

    def replace(self, profile: Profile, now: float) -> None:
        """Ask others from now on. Servers that stay keep their sockets and what is known of them."""
        self._use(profile)
        wanted = {where for upstream in profile.upstreams for where in places(upstream)}
        gone = [server for where, server in self._servers.items() if where not in wanted]
        self._servers = {w: s for w, s in self._servers.items() if w in wanted}
        for server in gone:
            server.close(now)

    @property
    def servers(self) -> list[Server]:
        """Those that were asked so far."""
        return list(self._servers.values())

    def asked_for(self, query: Query) -> Asked:
        """Whom to ask."""
        if query.scope is not self._scope:
            query.mask = self._scope.mask_for(query.name)
            query.scope = self._scope
        asked = self._by_mask.get(query.mask)
        if asked is None:
            asked = self._by_mask[query.mask] = self._asked_of(self._scope.of(query.mask))
        return asked

    def searches(self, query: Query) -> list[Search]:
        """What else the query may mean, best first."""
        found = searching.candidates(query, self._profile.upstreams, self._scope)
        return [(each.query, self._asked_of((each.upstream,))) for each in found]

    def own_searches(self, query: Query) -> list[Search]:
        """What the Pod's own search list makes of a name."""
        found = searching.own(query, self._profile.upstreams)
        return [(each, self.asked_for(each)) for each in found]

    def find(self, where: Where) -> Server | None:
        """What is known of a server; nothing before it was asked."""
        return self._servers.get(where)

    def sweep(self, now: float) -> bool:
        """Let go of idle sockets; False: none is open."""
        return bool([server for server in self._servers.values() if server.sweep(now)])

    def close(self, now: float) -> None:
        for server in self._servers.values():
            server.close(now)
        self._servers.clear()
        self._by_mask.clear()

    def _use(self, profile: Profile) -> None:
        self._profile = profile
        self._scope = self._scopes.of(profile)
        self._by_mask.clear()

    def _asked_of(self, upstreams: tuple[Upstream, ...]) -> Asked:
        found: dict[Where, Server] = {}
        for upstream in upstreams:
            kind = CLUSTER if upstream.name == CLUSTER else "service"
            for where in places(upstream):
                server = self._servers.get(where)
                if server is None:
                    server = self._servers[where] = self._new_server(where, kind)
                found[where] = server
        return tuple((server, 1 << index) for index, server in enumerate(found.values()))


def places(upstream: Upstream) -> list[Where]:
    """The servers of an upstream; what is no address is none."""
    via = CLUSTER if upstream.name == CLUSTER else upstream.interface
    return [Where(server, via) for server in upstream.servers if _is_address(server)]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
