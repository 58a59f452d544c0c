"""What a grant tells people of itself: why its addresses are others than before, and what of it is covered."""

from collections.abc import Iterable, Iterator

from schemas.grant import Connection, End
from services.ipam.core import blocks
from services.ipam.core.exclusions import Use
from services.ipam.core.holdings import routes_of
from services.ipam.core.state import State

MOST_COVERED = 4


def readdressed(
    state: State, connection: Connection, previous: Connection, *, readdress: bool
) -> str:
    """Told as long as these addresses stand."""
    if connection.client.pod.uid != previous.client.pod.uid:
        return ""
    if _addresses(connection) == _addresses(previous):
        return previous.readdressed
    swallowed = _swallowed(state, _addresses(previous)) if readdress else ()
    uses = "; ".join(f"{which} came to overlap {use}" for which, use in swallowed)
    if not uses and connection.server.pod.uid != previous.server.pod.uid:
        return ""  # that it has another endpoint says it all
    edited = f"endpoint {connection.endpoint_namespace}/{connection.endpoint} was edited"
    return "; ".join(filter(None, (uses or edited, _of_endpoint(connection, previous))))


def covered(state: State, connection: Connection) -> str:
    """What of a connection overlaps a prefix in use although it stands."""
    found = [
        *(
            f"{which} came to overlap {use}"
            for which, use in _swallowed(state, _addresses(connection))
        ),
        *(
            f"the route {blocks.show(route)} came to overlap {use}"
            for route in routes_of(connection)
            if route[2] and (use := next(state.exclusions.hard(route), None)) is not None
        ),
    ]
    more = f"; and {len(found) - MOST_COVERED} more" if len(found) > MOST_COVERED else ""
    return "; ".join(found[:MOST_COVERED]) + more


def _swallowed(state: State, addresses: Iterable[str]) -> list[tuple[str, Use]]:
    """Addresses that prefixes in use cover, by these."""
    uses: dict[Use, list[str]] = {}
    for text in addresses:
        use = state.exclusions.hard_of_host(blocks.read_host(text))
        if use is not None:
            uses.setdefault(use, []).append(_bare(text))
    return [(" and ".join(of), use) for use, of in uses.items()]


def _of_endpoint(connection: Connection, previous: Connection) -> str:
    if connection.server.addresses == previous.server.addresses:
        return ""
    now, before = (", ".join(_bare_of(each.server)) for each in (connection, previous))
    return f"the endpoint has {now} now instead of {before}"


def _addresses(connection: Connection) -> tuple[str, ...]:
    return (*connection.client.addresses, *connection.server.addresses)


def _bare_of(end: End) -> Iterator[str]:
    return map(_bare, end.addresses)


def _bare(text: str) -> str:
    return text.partition("/")[0]
