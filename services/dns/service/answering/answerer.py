"""One Pod's resolver: its listeners, its queries, its upstreams; opened and closed as one."""

from collections.abc import Callable

from services.dns.core.explaining import Explained, explain
from services.dns.core.resolving import Resolver
from services.dns.core.servers import Ports, Server, Where
from services.dns.model import Profile
from services.dns.service.answering.datagrams import Datagrams
from services.dns.service.answering.engine import Engine
from services.dns.service.answering.opening import Opener, open_listeners
from services.dns.service.answering.outlet import Outlet
from services.dns.service.answering.streams import Streams
from services.dns.service.answering.upstreams import UpstreamPorts


class Answerer:
    """`on_loop` is called from the loop, possibly often, when a query of ours came back to us as a client's."""

    def __init__(
        self,
        opener: Opener,
        *,
        engine: Engine,
        profile: Profile,
        on_loop: Callable[[], None] = lambda: None,
        upstream_port: int = 53,
    ) -> None:
        self._engine = engine
        self._profile = profile
        self._opener = opener
        self._on_loop = on_loop
        self._outlet = Outlet(
            opener,
            engine=engine,
            upstream_port=upstream_port,
            keep_swept=lambda: engine.keep_swept(self),
        )
        self.resolver = Resolver(profile, shared=engine.shared, new_server=self._new_server)
        self._datagrams: Datagrams | None = None
        self._streams: Streams | None = None

    @property
    def servers(self) -> list[Server]:
        return self.resolver.plans.servers

    def open(self) -> int:
        """Listen, UDP and TCP, on 127.0.0.1 and (where there is IPv6) ::1; the port of them all. Once.

        Raises OSError.
        """
        listeners = open_listeners(self._opener)
        self._datagrams = Datagrams(
            self._outlet, listeners.datagram, resolver=self.resolver, on_loop=self._on_loop
        )
        self._streams = Streams(
            self._outlet, listeners.stream, resolver=self.resolver, on_loop=self._on_loop
        )
        return listeners.port

    def explain(self, name: str) -> Explained:
        """Who would be asked for a name, and why. Raises ValueError for what is none."""
        now = self._engine.loop.time()
        return explain(self._profile, self.resolver.plans, name, now)

    def replace(self, profile: Profile) -> None:
        """Other upstreams from now on; queries on their way end with what they have asked."""
        self._profile = profile
        self.resolver.replace(profile, self._engine.loop.time())

    def discard(self) -> None:
        """Throw away what clients sent over UDP and was not read yet."""
        if self._datagrams is not None:
            self._datagrams.discard()

    def close(self) -> None:
        """Close everything of this Pod at once; also twice, also when never opened."""
        if self._datagrams is not None and self._streams is not None:
            self._datagrams.close()
            self._streams.close()
        self.resolver.close(self._engine.loop.time())
        self._outlet.stream_ports.clear()

    def sweep(self, now: float) -> bool:
        """Let go of what is idle; False: nothing is left that could be."""
        streams = self._streams is not None and self._streams.sweep(now)
        ended = self._outlet.sweep(now)
        return self.resolver.sweep(now) or streams or ended

    def _new_server(self, where: Where, kind: str) -> Server:
        def ports(server: Server) -> Ports:
            return UpstreamPorts(self._outlet, server)

        return Server(where, kind=kind, shared=self._engine.shared, ports=ports)
