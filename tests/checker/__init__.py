"""The second opinion: reads only the bus and names every conflict between what stands on it.

Written from the design and the schemas, without a look at ipam: `conflicts` of a picture in which all has settled is
empty. `double_grants` is the part that may not be wrong for a single moment: it holds of every committed version.
"""

from collections.abc import Collection, Iterator

from tests.checker import pods, pools, requests, tunnels
from tests.checker.picture import Picture

__all__ = ["Picture", "conflicts", "double_grants"]


def conflicts(picture: Picture, *, late: Collection[str] = ()) -> list[str]:
    """Every conflict, in words. `late`: exclusions that came after grants which nothing can replace."""
    return sorted(set(_all(picture, frozenset(late))))


def double_grants(picture: Picture) -> list[str]:
    """Addresses and tunnels with two owners: never, not even between two steps."""
    return sorted({*pools.shared_addresses(picture), *tunnels.shared_tunnels(picture)})


def _all(picture: Picture, late: frozenset[str]) -> Iterator[str]:
    yield from requests.keys(picture)
    yield from requests.copies(picture)
    yield from requests.answers(picture)
    yield from requests.endpoints(picture)
    yield from pools.shared_addresses(picture)
    yield from pools.unconfirmed(picture)
    yield from pools.addresses(picture, late)
    yield from pools.figures(picture)
    yield from pools.collisions(picture)
    yield from pools.automatic(picture, late)
    yield from pools.cluster_prefixes(picture)
    yield from pods.ends(picture)
    yield from pods.routes(picture, late)
    yield from pods.next_hops(picture)
    yield from pods.overlaps(picture)
    yield from tunnels.shared_tunnels(picture)
    yield from tunnels.mechanisms(picture)
