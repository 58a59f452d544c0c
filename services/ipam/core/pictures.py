"""A picture of the bus, and what it says of addresses, a line each with the subject it stands on."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

from schemas import grant, intent, state
from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.subjects import ConnectionKey, Key, StatusKey
from services.ipam.core import blocks
from services.ipam.core.blocks import Block, Host, read_block_loosely, read_host
from services.ipam.core.holdings import request_key

MOST_LINES = 20  # of one kind


class Line(msgspec.Struct, frozen=True):
    """One line of an answer. `subject` is where on the bus it stands; empty if nowhere."""

    text: str
    subject: str = ""


class Picture(msgspec.Struct):
    """What is on the bus at one moment: decoded messages by key, tombstones too."""

    messages: dict[Key, Any] = {}

    @classmethod
    def from_messages(cls, messages: Iterable[tuple[Key, Any]]) -> "Picture":
        return cls(dict(messages))

    def of(self, kind: type[Any]) -> Iterator[tuple[Any, Any]]:
        """Messages of a kind, by subject."""
        found = [(key, each) for key, each in self.messages.items() if isinstance(each, kind)]
        return iter(sorted(found, key=lambda item: item[0].subject))

    def connections(self) -> Iterator[Connection]:
        """Every grant once: without the copies for endpoints' nodes."""
        for _, connection in self.of(Connection):
            if connection.node == connection.client.pod.node:
                yield connection

    def unconfirmed(self) -> Iterator[tuple[ConnectionKey, Tombstone]]:
        """Released grants of which their node has not said yet that they are gone."""
        nodes = {
            key.optional_name for key, of in self.of(intent.PrefixesInUse) if of.source == "node"
        }
        for key, tombstone in self.of(Tombstone):
            if not isinstance(key, ConnectionKey) or not tombstone.released:
                continue
            said = self.messages.get(StatusKey(key.node, key.namespace, key.pod, key.interface))
            if isinstance(said, Tombstone):
                is_gone = said.revision >= tombstone.revision
            else:
                is_gone = isinstance(said, state.Status) and said.revision > tombstone.revision
            if not is_gone and (not nodes or key.node in nodes):
                yield key, tombstone


def takers(picture: Picture, block: Block) -> set[str]:
    """Endpoint objects of whose pools anything of a block is taken, as namespace/name."""
    found = set()
    for connection in picture.connections():
        if _within((*connection.client.addresses, *connection.server.addresses), block):
            found.add(_object(connection))
    for _, tombstone in picture.unconfirmed():
        if _within((*tombstone.addresses, *tombstone.peer_addresses), block):
            found.add(tombstone.endpoint)
    for _, applied in _applied(picture):
        if _within((*applied.client.addresses, *applied.server.addresses), block):
            found.add(_object(applied))
    return found


def held_by_grants(picture: Picture, block: Block) -> Iterator[Line]:
    for connection in picture.connections():
        for end, role in ((connection.client, "client"), (connection.server, "endpoint Pod")):
            for text in _within(end.addresses, block):
                yield Line(
                    f"{text} is the {role}'s on {_connection(connection)}, since revision {connection.revision}",
                    connection.key.subject,
                )
        sources = (each.source for each in connection.policies if blocks.read_source(each))
        for text in _within(dict.fromkeys(sources), block):
            yield Line(
                f"{text} is the client's, too, by a policy of {_connection(connection)}",
                connection.key.subject,
            )


def defaults(picture: Picture, block: Block) -> Iterator[Line]:
    """Asked about 0.0.0.0/0 or ::/0 itself: whom connections lead everywhere."""
    for connection in picture.connections():
        if any(_is_same_default(route.destination, block) for route in connection.client.routes):
            words = "has a default route"
        elif any(_leads_everywhere(policy, block) for policy in connection.policies):
            words = "has a default route for what a policy matches"
        else:
            continue
        yield Line(f"{_connection(connection)} {words}", connection.key.subject)


def _leads_everywhere(policy: intent.Policy, block: Block) -> bool:
    if policy.routes:
        return any(_is_same_default(route.destination, block) for route in policy.routes)
    is_other = policy.source and read_block_loosely(policy.source)[0] != block[0]
    return not block[2] and not is_other


def held_back(picture: Picture, block: Block) -> Iterator[Line]:
    told = set()
    for key, tombstone in picture.unconfirmed():
        if _within((*tombstone.addresses, *tombstone.peer_addresses), block):
            told.add((key.node, key.namespace, key.pod, key.interface))
            yield still_to_confirm(key, tombstone)
    granted = {request_key(c): c for c in picture.connections()}
    for at, applied in _applied(picture):
        current = granted.get(request_key(applied))
        is_current = current is not None and current.revision == applied.revision
        where = (at.node, at.namespace, at.pod, at.interface)
        texts = _within((*applied.client.addresses, *applied.server.addresses), block)
        if texts and not is_current and where not in told:
            told.add(where)
            yield Line(
                f"{', '.join(texts)} still stands on node {at.node}, of {_connection(applied)}, "
                f"revision {applied.revision}",
                at.subject,
            )


def still_to_confirm(key: ConnectionKey, tombstone: Tombstone) -> Line:
    addresses = ", ".join((*tombstone.addresses, *tombstone.peer_addresses))
    return Line(
        f"{addresses} held back: node {key.node} has not confirmed that connection {key.interface} of pod "
        f"{key.namespace}/{key.pod} to endpoint {tombstone.endpoint} is gone (revision {tombstone.revision})",
        key.subject,
    )


def in_use(picture: Picture, block: Block) -> Iterator[Line]:
    for key, message in picture.of(intent.PrefixesInUse):
        for used in message.prefixes:
            if _overlaps(used.prefix, block):
                yield Line(f"{used.prefix} is in use: {used.used_by}", key.subject)
    for key, seen in picture.of(state.SeenPrefixes):
        for text in seen.prefixes:
            if _overlaps(text, block):
                yield Line(
                    f"{text} was seen on node {seen.node}: new connections keep clear of it",
                    key.subject,
                )


def own_addresses(picture: Picture, block: Block) -> Iterator[Line]:
    told = set()
    for key, message in (*picture.of(intent.Request), *picture.of(intent.Endpoint)):
        for text in _within(message.pod.ips, block):
            if (message.pod.uid, text) not in told:
                told.add((message.pod.uid, text))
                pod = f"{message.pod.namespace}/{message.pod.name}"
                yield Line(f"{text} is pod {pod}'s own address in the cluster", key.subject)


def routes(picture: Picture, block: Block) -> Iterator[Line]:
    told = set()
    for key, endpoint in picture.of(intent.Endpoint):
        for text, words in _declared(endpoint):
            known = (key.namespace, key.endpoint, words)
            if known not in told and (_overlaps(text, block) or _is_same_default(text, block)):
                told.add(known)
                yield Line(
                    f"endpoint {key.namespace}/{key.endpoint} declares {words} to its clients",
                    key.subject,
                )


def _declared(endpoint: intent.Endpoint) -> Iterator[tuple[str, str]]:
    """Prefixes that an endpoint's routes and policies speak of, and in which words."""
    of_policies = [route for policy in endpoint.policies for route in policy.routes]
    for route in (*endpoint.routes, *of_policies):
        yield route.destination, f"the route {route.destination}"
    for policy in endpoint.policies:
        if policy.source:
            yield policy.source, f"a policy of what comes from {policy.source}"


def pools_of(
    picture: Picture, host: Host, *, taken_of: Collection[str], is_excluded: bool
) -> Iterator[Line]:
    specs = {(k.namespace, k.endpoint): e.ipam for k, e in picture.of(intent.Endpoint)}
    for key, pool in picture.of(grant.Pool):
        own = [text for family in pool.families for text in family.prefixes]
        text = next((text for text in own if blocks.has(read_block_loosely(text), host)), None)
        if text is None:
            continue
        where = f"{blocks.address_of(host)} lies in {text} of pool {key.namespace}/{key.endpoint}"
        spec = specs.get((key.namespace, key.endpoint))
        if spec is not None and any(
            _overlaps(t, blocks.of_host(host)) for t in spec.exclude_prefixes
        ):
            words = f"{where}, whose ipam.excludePrefixes or next hops leave it out"
        elif spec is not None and spec.addressing == "shared" and _is_edge(text, host):
            words = f"{where}, as its network or broadcast address: not handed out"
        elif f"{key.namespace}/{key.endpoint}" in taken_of:
            words = where
        elif is_excluded:
            words = f"{where}, and is not given because it is in use"
        else:
            words = f"{where}, and is free"
        yield Line(words, key.subject)


def pools_overlapping(picture: Picture, block: Block) -> Iterator[Line]:
    for key, pool in picture.of(grant.Pool):
        for family in pool.families:
            for text in family.prefixes:
                if _overlaps(text, block):
                    carved = ", carved for it" if pool.automatic else ""
                    yield Line(
                        f"{text} is of the pool of endpoint {key.namespace}/{key.endpoint}{carved}: "
                        f"IPv{family.family} has {family.used} of {family.size} used, {family.held} held back, "
                        f"{family.excluded} excluded, {family.free} free",
                        key.subject,
                    )


def _applied(picture: Picture) -> Iterator[tuple[StatusKey, Connection]]:
    """What nodes say they have."""
    for key, status in picture.of(state.Status):
        for end in (status.client, status.server):
            if end is not None and end.applied is not None:
                yield key, end.applied


def _object(connection: Connection) -> str:
    return f"{connection.endpoint_namespace}/{connection.endpoint}"


def _connection(connection: Connection) -> str:
    key = request_key(connection)
    return (
        f"connection {key.interface} of pod {key.namespace}/{key.pod} to endpoint "
        f"{_object(connection)} (pod {connection.server.pod.name})"
    )


def _within(texts: Iterable[str], block: Block) -> list[str]:
    found = []
    for text in texts:
        try:
            if blocks.has(block, read_host(text)):
                found.append(text.partition("/")[0])
        except ValueError:
            continue
    return found


def _overlaps(text: str, block: Block) -> bool:
    """Never true of a default route: it leads to what nothing else does."""
    try:
        other = read_block_loosely(text)
    except ValueError:
        return False
    if other[0] != block[0] or not other[2]:
        return False
    return other[1] <= blocks.last_of(block) and block[1] <= blocks.last_of(other)


def _is_same_default(text: str, block: Block) -> bool:
    """Asked about 0.0.0.0/0 itself, a default route is what is meant."""
    try:
        return not block[2] and read_block_loosely(text) == block
    except ValueError:
        return False


def _is_edge(text: str, host: Host) -> bool:
    own = read_block_loosely(text)
    if own[2] >= blocks.BITS[own[0]] - 1:
        return False
    return host[1] == own[1] or (own[0] == 4 and host[1] == blocks.last_of(own))


def few(lines: Iterable[Line]) -> list[Line]:
    every = list(lines)
    if len(every) <= MOST_LINES:
        return every
    return [*every[:MOST_LINES], Line(f"and {len(every) - MOST_LINES} more like these")]
