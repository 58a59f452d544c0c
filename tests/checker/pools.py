"""Addresses: in the endpoint's own prefixes, in nobody else's, and counted right."""

from collections import defaultdict
from collections.abc import Iterator

from schemas.grant import Pool, PoolFigures
from schemas.intent import Endpoint
from schemas.subjects import PoolKey
from tests.checker.picture import Object, Picture, name, object_of
from tests.checker.spans import (
    Cover,
    Span,
    address,
    clashes,
    is_default,
    merged,
    size,
    span,
    without,
)

MOST_COLLISIONS = 8


def shared_addresses(picture: Picture) -> Iterator[str]:
    """Of one endpoint object each client address is one client's; server addresses repeat only where shared."""
    clients: dict[tuple[Object, Span], set[str]] = defaultdict(set)
    servers: dict[tuple[Object, Span], set[str]] = defaultdict(set)
    for connection in picture.grants():
        owner, label = object_of(connection), name(connection)
        for text in connection.client.addresses:
            clients[owner, address(text)].add(label)
        for text in connection.server.addresses:
            servers[owner, address(text)].add(label)
    objects = picture.objects()
    for (owner, at), labels in clients.items():
        if len(labels) > 1:
            yield f"{at.what} of {'/'.join(owner)} is the client address of {' and '.join(sorted(labels))}"
        for other in servers.get((owner, at), ()):
            yield f"{at.what} of {'/'.join(owner)} is the client's of {min(labels)}, the endpoint's of {other}"
    for (owner, at), labels in servers.items():
        found = objects.get(owner)
        if len(labels) > 1 and found is not None and found.ipam.addressing == "pointToPoint":
            yield f"{at.what} of {'/'.join(owner)} is the endpoint's on {' and '.join(sorted(labels))}"


def unconfirmed(picture: Picture) -> Iterator[str]:
    """What a node still has of one connection is not another's client address yet."""
    owners = {
        (object_of(c), address(text)): name(c)
        for c in picture.grants()
        for text in c.client.addresses
    }
    for status in picture.statuses.values():
        for end in (status.client, status.server):
            if end is None or end.applied is None:
                continue
            applied = end.applied
            for text in (*applied.client.addresses, *applied.server.addresses):
                owner = owners.get((object_of(applied), address(text)))
                if owner is not None and owner != name(applied):
                    yield f"{text} is granted to {owner}, {status.node} still has it for {name(applied)}"


def prefixes_of(picture: Picture, owner: Object, spec: Endpoint | None) -> list[Span]:
    """The endpoint's own, or those carved for it."""
    pool = picture.pools.get(PoolKey(*owner))
    if spec is not None and spec.ipam.prefixes:
        return [span(p) for p in spec.ipam.prefixes]
    return [span(p) for f in pool.families for p in f.prefixes] if pool else []


def usable(picture: Picture, owner: Object, spec: Endpoint) -> list[Span]:
    """What its spec lets it hand out, whatever is in use elsewhere."""
    own = with_left_out(picture, owner, spec)
    return without(own, [span(p) for p in spec.ipam.exclude_prefixes])


def with_left_out(picture: Picture, owner: Object, spec: Endpoint) -> list[Span]:
    """The same with what its own `excludePrefixes` leave out."""
    found = []
    for one in prefixes_of(picture, owner, spec):
        if spec.ipam.addressing == "shared" and one.size > 2:
            # IPv6 has no broadcast; its first address is the routers' anycast.
            found.append(one._replace(first=one.first + 1, last=one.last - (one.family == 4)))
        else:
            found.append(one)
    return found


def addresses(picture: Picture, late: frozenset[str]) -> Iterator[str]:
    """Every address is one the endpoint may hand out and nobody else uses."""
    objects, exclusions = picture.objects(), picture.exclusions()
    hard = Cover(e for e in exclusions if e.what.partition(" ")[0] not in late)
    own: dict[Object, Cover] = {}
    for connection in picture.grants():
        owner, label = object_of(connection), name(connection)
        spec = objects.get(owner)
        if spec is None:
            continue
        if owner not in own:
            own[owner] = Cover(usable(picture, owner, spec))
        for end in (connection.client, connection.server):
            for text in end.addresses:
                at = address(text)
                if own[owner].find(at) is None:
                    yield f"{label}: {text} is none that {'/'.join(owner)} may hand out"
                taken = hard.find(at)
                if taken is not None:
                    yield f"{label}: {text} is in use: {taken.what}"


def figures(picture: Picture) -> Iterator[str]:
    """Each object's pool is told, and its figures add up to what the grants say."""
    used: dict[Object, set[Span]] = defaultdict(set)
    for c in picture.grants():
        used[object_of(c)] |= {address(t, "-") for t in (*c.client.addresses, *c.server.addresses)}
    objects = picture.objects()
    for owner in sorted(objects.keys() - {(k.namespace, k.endpoint) for k in picture.pools}):
        yield f"no pool is told of {'/'.join(owner)}"
    hard = picture.exclusions()
    for key, pool in picture.pools.items():
        owner = key.namespace, key.endpoint
        spec = objects.get(owner)
        families = [f.family for f in pool.families]
        if len(set(families)) < len(families):
            yield f"pool {'/'.join(owner)} tells a family twice"
        for told in pool.families:
            mine = [s for s in used[owner] if s.family == told.family]
            for problem in _sums(told, mine):
                yield f"pool {'/'.join(owner)}, IPv{told.family}: {problem}"
            if spec is not None:
                whole, space = (
                    [s for s in spans(picture, owner, spec) if s.family == told.family]
                    for spans in (with_left_out, usable)
                )
                for problem in _against_spec(told, whole, space, used=mine, hard=hard):
                    yield f"pool {'/'.join(owner)}, IPv{told.family}: {problem}"


def _sums(told: PoolFigures, used: list[Span]) -> Iterator[str]:
    if told.used + told.held + told.excluded + told.free != told.size:
        yield f"{told.used} + {told.held} + {told.excluded} + {told.free} is not {told.size}"
    if min(told.size, told.used, told.held, told.excluded, told.free) < 0:
        yield "a figure is below zero"
    inside = Cover(span(p) for p in told.prefixes)
    counted = sum(inside.find(s) is not None for s in used)
    if told.used != counted:
        yield f"{told.used} used, the grants have {counted}"
    if not told.largest_free:
        if told.free:
            yield f"{told.free} free, and no largest free prefix"
        return
    largest = span(told.largest_free)
    if largest.size > told.free:
        yield f"{told.largest_free} is free, and only {told.free} addresses are"
    if Cover(used).find(largest) is not None:
        yield f"{told.largest_free} is called free, and granted"
    if not any(p.contains(largest) for p in merged(span(p) for p in told.prefixes)):
        yield f"{told.largest_free} is called free, and none of its own"


def _against_spec(
    told: PoolFigures, whole: list[Span], space: list[Span], *, used: list[Span], hard: list[Span]
) -> Iterator[str]:
    every = size(whole, told.family)
    if told.size != every:
        yield f"size {told.size}, its spec gives {every}"
    if told.excluded < every - size(space, told.family):
        yield f"{told.excluded} excluded, its own spec leaves out more"
    most = size(without(space, [*hard, *used]), told.family) - told.held
    if told.free > max(most, 0) and told.held == 0:
        yield f"{told.free} free, at most {most} are"


def collisions(picture: Picture) -> Iterator[str]:
    """A pool tells which of its prefixes and routes overlap what is in use, and by whom that is used."""
    hard = picture.exclusions()
    cover = Cover(hard)
    objects = picture.objects()
    for key, pool in picture.pools.items():
        label, spec = f"{key.namespace}/{key.endpoint}", objects.get((key.namespace, key.endpoint))
        told = {(span(c.prefix, "-"), span(c.overlaps, "-")) for c in pool.collisions}
        if len(pool.collisions) > MOST_COLLISIONS:
            yield f"pool {label} tells {len(pool.collisions)} collisions"
        in_use = {e._replace(what="-") for e in hard}
        for prefix, overlapped in told:
            if overlapped not in in_use or not prefix.overlaps(overlapped):
                yield f"pool {label} tells a collision that is none: {pool.collisions}"
        if spec is None or len(pool.collisions) == MOST_COLLISIONS:
            continue
        for one in _colliding(picture, pool, spec):
            if cover.find(one) is not None and one._replace(what="-") not in {p for p, _ in told}:
                yield f"pool {label} is silent on {one.what}, which overlaps {cover.find(one)}"


def _colliding(picture: Picture, pool: Pool, spec: Endpoint) -> list[Span]:
    routes = [r.destination for r in spec.routes if not is_default(r.destination)]
    own = prefixes_of(picture, (pool.namespace, pool.endpoint), spec)
    return [*own, *(span(r) for r in routes)]


def automatic(picture: Picture, late: frozenset[str]) -> Iterator[str]:
    """What was carved for an endpoint overlaps nothing in use and nothing that was carved for another one.

    What another one names it keeps clear of only where there is room.
    """
    objects, spans = picture.objects(), []
    hard = Cover(e for e in picture.exclusions() if e.what.partition(" ")[0] not in late)
    carved = set()
    for key, pool in picture.pools.items():
        label = f"{key.namespace}/{key.endpoint}"
        spec = objects.get((key.namespace, key.endpoint))
        if spec is not None and pool.automatic == bool(spec.ipam.prefixes):
            yield f"pool {label}: automatic is {pool.automatic}, prefixes are {spec.ipam.prefixes}"
        for told in pool.families:
            for prefix in told.prefixes:
                spans.append(span(prefix, f"{prefix} of {label}", label))
                if pool.automatic:
                    carved.add(label)
                    taken = hard.find(spans[-1])
                    if taken is not None:
                        yield f"{prefix} was carved for {label} out of {taken.what}"
    for one, other in clashes(spans):
        if {one.who, other.who} <= carved:
            yield f"{one.what} and {other.what} overlap, and both were carved"


def cluster_prefixes(picture: Picture) -> Iterator[str]:
    """nsm.cluster.prefixes is every prefix in use, merged."""
    wanted = merged(e._replace(what="") for e in picture.exclusions())
    for told in picture.cluster.values():
        spans = [span(p)._replace(what="") for p in told.prefixes]
        if merged(spans) != wanted:
            yield f"the cluster's prefixes are told as {told.prefixes}"
    if wanted and not picture.cluster:
        yield "the cluster's prefixes are not told"
