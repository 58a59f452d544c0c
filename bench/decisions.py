"""µs per decision: a request settled by ipam's own core, beside the naive allocator in the same state.

A decision is all of it: the endpoint is chosen, every address and route is checked, the grant is remembered and ready
to be written. Finding addresses is the part of it that the naive allocator does.
Every sample leaves the state as it found it. Counted is this thread's time on the processor: what else runs on the
machine does not show.
"""

import ipaddress
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from bench.naive import Address, Naive, Network, TooSlow
from schemas.grant import Connection
from schemas.intent import Endpoint, IpamSpec, PodRef, Request, Route
from schemas.subjects import RequestKey
from services.ipam.core.allocating import Wish, allocate
from services.ipam.core.settling import abandon, settle
from services.ipam.core.state import State, Use

EXCLUSIONS = (0, 1_000, 5_000)
SIXTEEN = ipaddress.ip_network("172.16.0.0/16")
FORTY_EIGHT = ipaddress.ip_network("2001:db8:7::/48")
ROUTES = {4: "10.20.0.0/16", 6: "fd20::/16"}
SPARE = 64  # addresses that are free in a nearly full prefix
_STEP = 13  # an exclusion lies in every thirteenth address, so 5,000 fit into a /16


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table."""

    name: str
    prefix: Network
    fill: Callable[["Pool"], None]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one case with a number of exclusions."""

    case: str
    exclusions: int
    ours: list[float]  # whole decisions
    finding: list[float]  # addresses alone
    naive: list[float]
    naive_gave_up: str = ""


class Pool:
    """One endpoint on `prefix`, and the naive allocator beside it, with the same addresses taken."""

    def __init__(self, prefix: Network) -> None:
        self.prefix = prefix
        self.state = State()
        self.clients: dict[int, Connection] = {}
        self.server: list[Address] = []
        endpoint = Endpoint(
            endpoint="vpn",
            pod=_pod("gateway", "192.0.2.1"),
            ready=True,
            network_services=("vpn",),
            ipam=IpamSpec(prefixes=(str(prefix),)),
            routes=(Route(destination=ROUTES[prefix.version]),),
        )
        self.state.put_node("node1", exists=True)
        self.endpoint = endpoint
        self.state.registry.put_endpoint(endpoint.key, endpoint)

    def take(self) -> Connection | None:
        """One more client; None where the pool is full."""
        number = len(self.clients)
        connection = self._settle(_request(f"client-{number}"))
        if connection is not None:
            self.clients[_client(connection)] = connection
        return connection

    def give_back(self, connections: Iterable[Connection]) -> None:
        for connection in list(connections):
            del self.clients[_client(connection)]
            self._forget(connection)

    def exclude(self, networks: Iterable[Network]) -> float:
        """Replace the exclusions; the seconds it took."""
        uses = [Use(network, "bench") for network in networks]
        started = time.thread_time()
        self.state.put_excluded(uses, [])
        return time.thread_time() - started

    def sample(self) -> float:
        """Seconds of one decision; its grant is taken back."""
        request = _request("sample")
        started = time.thread_time()
        writes = settle(self.state, request, refusal=None, reported=None)
        took = time.thread_time() - started
        if writes.granted is None:
            raise LookupError(f"{self.prefix}: {writes.refused}")
        self._forget(writes.granted)
        return took

    def find(self) -> float:
        """Seconds to find addresses; nobody takes them."""
        request = _request("sample")
        pool = self.state.pool(self.endpoint)
        wish = Wish(request=request, key=request.key, endpoint=self.endpoint, standing=None)
        started = time.thread_time()
        found = allocate(self.state, pool, wish)
        took = time.thread_time() - started
        assert isinstance(found, dict), f"{self.prefix}: {found}"
        return took

    def naive(self, excluded: Iterable[Network]) -> Naive:
        found = Naive(self.prefix, excluded)
        found.used.update(ipaddress.ip_address(number) for number in self.clients)
        found.used.update(self.server)
        return found

    def _settle(self, request: Request) -> Connection | None:
        granted = settle(self.state, request, refusal=None, reported=None).granted
        if granted is not None and not self.server:
            self.server = [ipaddress.ip_address(granted.server.addresses[0].partition("/")[0])]
        return granted

    def _forget(self, connection: Connection) -> None:
        pod = connection.client.pod
        key = RequestKey(pod.namespace, pod.name, connection.client.interface)
        abandon(self.state, key, refusal=None)
        self.state.gone(key, node=pod.node, revision=connection.revision)


def empty(pool: Pool) -> None:
    """Nothing is taken."""


def half_full(pool: Pool) -> None:
    """Every second address is taken."""
    full(pool)
    pool.give_back(c for at, c in list(pool.clients.items()) if at % 2)


def nearly_full(pool: Pool) -> None:
    """All but some, far from the beginning and in no exclusion."""
    full(pool)
    base = int(pool.prefix.network_address)
    spare = [c for at, c in sorted(pool.clients.items()) if (at - base) % _STEP == _STEP // 2]
    pool.give_back(spare[-SPARE:])


def full(pool: Pool) -> None:
    while pool.take() is not None:
        pass


def thousands(pool: Pool) -> None:
    """Some thousands of clients in a prefix that has room for ever."""
    for _ in range(4_000):
        pool.take()


CASES = (
    Case(name="/16 empty", prefix=SIXTEEN, fill=empty),
    Case(name="/16 half full, fragmented", prefix=SIXTEEN, fill=half_full),
    Case(name="/16 nearly full", prefix=SIXTEEN, fill=nearly_full),
    Case(name="/48 with 4,000 clients", prefix=FORTY_EIGHT, fill=thousands),
)


def exclusions(prefix: Network, count: int) -> list[Network]:
    """Single addresses and blocks of two inside the prefix, from its beginning."""
    base, longest = int(prefix.network_address), prefix.max_prefixlen
    return [
        ipaddress.ip_network((base + 2 + number * _STEP // 2 * 2, longest - number % 2))
        for number in range(count)
    ]


def measure(*, samples: int, limit_seconds: float) -> Iterator[Row]:
    for case in CASES:
        pool = Pool(case.prefix)
        case.fill(pool)
        for count in EXCLUSIONS:
            networks = exclusions(case.prefix, count)
            pool.exclude(networks)
            pool.sample()
            ours = [pool.sample() for _ in range(samples)]
            finding = [pool.find() for _ in range(samples)]
            naive = pool.naive(networks)
            times: list[float] = []
            gave_up = ""
            deadline = time.thread_time() + limit_seconds
            while len(times) < samples and time.thread_time() < deadline:
                started = time.thread_time()
                try:
                    address = naive.allocate(limit_seconds=limit_seconds)
                except TooSlow as exc:
                    gave_up = str(exc)
                    break
                times.append(time.thread_time() - started)
                naive.release(address)
            yield Row(
                case=case.name,
                exclusions=count,
                ours=ours,
                finding=finding,
                naive=times,
                naive_gave_up=gave_up,
            )


def _pod(name: str, address: str) -> PodRef:
    return PodRef(namespace="bench", name=name, uid=f"uid-{name}", node="node1", ips=(address,))


def _request(name: str) -> Request:
    return Request(pod=_pod(name, "192.0.2.2"), interface="nsm-1", network_service="vpn")


def _client(connection: Connection) -> int:
    return int(ipaddress.ip_address(connection.client.addresses[0].partition("/")[0]))
