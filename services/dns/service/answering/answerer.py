"""One Pod's resolver: its listeners, its queries, its upstreams; opened and closed as one."""

from collections.abc import Callable

from services.dns.model import Profile
from services.dns.service.answering.datagrams import Datagrams
from services.dns.service.answering.engine import Engine
from services.dns.service.answering.opening import Opener, open_listeners
from services.dns.service.answering.outlet import Outlet
from services.dns.service.answering.resolving import Resolving
from services.dns.service.answering.streams import Streams


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
        self._opener = opener
        self._on_loop = on_loop
        self._outlet = Outlet(
            opener,
            engine=engine,
            upstream_port=upstream_port,
            keep_swept=lambda: engine.keep_swept(self),
        )
        self._resolving = Resolving(self._outlet, profile)
        self._datagrams: Datagrams | None = None
        self._streams: Streams | None = None

    def open(self) -> int:
        """Listen, UDP and TCP, on 127.0.0.1 and (where there is IPv6) ::1; the port of them all. Once.

        Raises OSError.
        """
        listeners = open_listeners(self._opener)
        self._datagrams = Datagrams(
            self._outlet, listeners.datagram, resolving=self._resolving, on_loop=self._on_loop
        )
        self._streams = Streams(
            self._outlet, listeners.stream, resolving=self._resolving, on_loop=self._on_loop
        )
        return listeners.port

    def replace(self, profile: Profile) -> None:
        """Other upstreams from now on; queries on their way end with what they have asked."""
        self._resolving.replace(profile)

    def close(self) -> None:
        """Close everything of this Pod at once; also twice, also when never opened."""
        if self._datagrams is not None and self._streams is not None:
            self._datagrams.close()
            self._streams.close()
        self._resolving.close()

    def sweep(self, now: float) -> bool:
        """Let go of what is idle; False: nothing is left that could be."""
        streams = self._streams is not None and self._streams.sweep(now)
        return self._resolving.sweep(now) or streams
