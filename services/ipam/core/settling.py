"""From a request, or its absence, to what has to be written; the state is brought along."""

from collections.abc import Collection

import msgspec

from schemas import grant, intent
from schemas.grant import Connection, Former
from schemas.subjects import RefusalKey, RequestKey
from services.ipam.core import waiting, wording
from services.ipam.core.deciding import Granted, Refused, decide
from services.ipam.core.state import Holding, State, endpoint_key, request_key
from services.ipam.model import Writes, per_node


def settle(
    state: State,
    request: intent.Request,
    *,
    refusal: grant.Refusal | None,
    reported: Connection | None,
    readdress: bool = False,
    plumbed: Collection[str] | None = None,
) -> Writes:
    """Answer a request.

    `refusal` is what stands on the bus; `reported` what its node says it has (`EndStatus.applied` of the
    client's section, or of the server's when the client's node is silent); `plumbed` the nodes that say so,
    None if nobody asked.

    `readdress`: a standing connection that a hard exclusion swallowed gets other addresses, if there are any;
    otherwise it stands. Without it it always stands.

    A connection that a node reports and nobody granted is adopted: same endpoint, same addresses, same
    revision where nothing else changed, so that the node has nothing to do.
    """
    key = request.key
    granted = state.grants.get(key)
    previous = granted or _adoptable(state, request, reported)
    last = max(state.last_revision(key), reported.revision if reported is not None else 0)
    result = _decide(state, request, previous, revision=last + 1, readdress=readdress)
    if isinstance(result, Granted):
        obstacle = waiting.obstacle(state, request, result.connection, previous)
        if obstacle is not None and granted is not None and _may_stand(state, granted):
            return Writes(forgiven=_standing(refusal))
        result = result if obstacle is None else Refused(obstacle)
    if isinstance(result, Refused):
        reason = result.refusal
        return Writes(
            released=_per_node(state.release(key)),
            refused=reason if reason != refusal else None,
        )
    connection = result.connection
    if connection == previous and granted is not None:
        is_behind = granted.revision < last  # nodes believe the newest
        if not is_behind and not is_sought(state, request, granted, plumbed):
            return Writes(forgiven=_standing(refusal))
        connection = msgspec.structs.replace(connection, revision=last + 1)
    return _grant(state, request, connection, previous, refusal)


def _decide(
    state: State,
    request: intent.Request,
    previous: Connection | None,
    *,
    revision: int,
    readdress: bool,
) -> Granted | Refused:
    """The decision; equal to what stands if it differs only in what is no reason for another revision."""
    known = _bare(previous) if previous is not None else None
    result: Granted | Refused | None = None
    if readdress and request.key in state.grants and state.is_affected(request.key):
        result = decide(state, request, previous=known, revision=revision, readdress=True)
    if not isinstance(result, Granted):
        result = decide(state, request, previous=known, revision=revision)
    if isinstance(result, Refused) or previous is None:
        return result
    # Told once its turn to get others has shown that there are none.
    is_told = readdress or bool(previous.covered)
    covered = (
        wording.covered(state, result.connection)
        if is_told and state.is_affected(request.key)
        else ""
    )
    if result.connection != known:
        return Granted(msgspec.structs.replace(result.connection, covered=covered))
    if covered == previous.covered:
        return Granted(previous)
    return Granted(msgspec.structs.replace(known, covered=covered, revision=revision))


def _grant(
    state: State,
    request: intent.Request,
    connection: Connection,
    previous: Connection | None,
    refusal: grant.Refusal | None,
) -> Writes:
    before = state.release(request.key)
    if connection != previous:
        formers = _formers(state, connection)
        connection = msgspec.structs.replace(_found_by(state, request, connection), held=formers)
    state.grant(connection, is_new=True)
    keys = {each.key for each in per_node(connection)}
    return Writes(
        released=tuple(each for each in _per_node(before) if each.key not in keys),
        granted=connection,
        forgiven=_standing(refusal),
    )


def _formers(state: State, connection: Connection) -> tuple[Former, ...]:
    """What the nodes of this revision may still have of before: it is written over what told of that."""
    key = request_key(connection)
    if not state.held(key):
        return ()
    own = Holding.of(connection)
    found: dict[tuple[object, ...], Former] = {}
    for held in sorted(state.held(key), key=lambda each: each.revision):
        if held.nodes & own.nodes and not own.has_all_of(held):
            found[held.object, held.client, held.server, held.vni] = held.as_former()
    return tuple(found.values())


def _bare(connection: Connection) -> Connection:
    """Without what is only told along."""
    client, server = connection.client, connection.server
    return msgspec.structs.replace(
        connection,
        held=(),
        covered="",
        client=msgspec.structs.replace(client, pod=_anywhere(client.pod)),
        server=msgspec.structs.replace(server, pod=_anywhere(server.pod)),
    )


def _anywhere(pod: intent.PodRef) -> intent.PodRef:
    return msgspec.structs.replace(pod, ips=()) if pod.ips else pod


def _found_by(state: State, request: intent.Request, connection: Connection) -> Connection:
    """With the Pods' addresses, as far as they are known: where the CNI left no result, nodes find Pods by them."""
    client, server = connection.client, connection.server
    endpoint = state.registry.endpoints[endpoint_key(connection)]
    return msgspec.structs.replace(
        connection,
        client=msgspec.structs.replace(
            client, pod=msgspec.structs.replace(client.pod, ips=request.pod.ips)
        ),
        server=msgspec.structs.replace(
            server, pod=msgspec.structs.replace(server.pod, ips=endpoint.pod.ips)
        ),
    )


def is_sought(
    state: State,
    request: intent.Request,
    granted: Connection,
    plumbed: Collection[str] | None,
) -> bool:
    """Whether a node may still look for a Pod whose addresses came to be known after the grant."""
    endpoint = state.registry.endpoints.get(endpoint_key(granted))
    ends = (granted.client, request.pod), (granted.server, endpoint.pod if endpoint else None)
    return plumbed is not None and any(
        pod is not None and pod.ips and not end.pod.ips and pod.node not in plumbed
        for end, pod in ends
    )


def _may_stand(state: State, granted: Connection) -> bool:
    """Whether the endpoint Pod is there still."""
    endpoint = state.registry.endpoints.get(endpoint_key(granted))
    return endpoint is not None and endpoint.pod.uid == granted.server.pod.uid


def abandon(state: State, key: RequestKey, *, refusal: grant.Refusal | None) -> Writes:
    """Nobody asks any more."""
    return Writes(released=_per_node(state.release(key)), forgiven=_standing(refusal))


def _adoptable(
    state: State, request: intent.Request, reported: Connection | None
) -> Connection | None:
    """What a node has of this very Pod, unless we took it back ourselves."""
    if reported is None or reported.client.pod.uid != request.pod.uid:
        return None
    released = [h for h in state.held(request.key) if h.is_released]
    if any(held.revision >= reported.revision for held in released):
        return None
    if reported.client.pod.node != request.pod.node:
        return None
    return msgspec.structs.replace(reported, node=request.pod.node)


def _per_node(connection: Connection | None) -> tuple[Connection, ...]:
    return per_node(connection) if connection is not None else ()


def _standing(refusal: grant.Refusal | None) -> RefusalKey | None:
    return refusal.key if refusal is not None else None
