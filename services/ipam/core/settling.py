"""From a request, or its absence, to what has to be written; the state is brought along."""

import msgspec

from schemas import grant, intent
from schemas.grant import Connection
from schemas.subjects import RefusalKey, RequestKey
from services.ipam.core.deciding import Granted, Refused, decide
from services.ipam.core.state import State
from services.ipam.model import Writes, per_node


def settle(
    state: State,
    request: intent.Request,
    *,
    refusal: grant.Refusal | None,
    reported: Connection | None,
    readdress: bool = False,
) -> Writes:
    """Answer a request.

    `refusal` is what stands on the bus; `reported` what its node says it has (`EndStatus.applied` of the
    client's section, or of the server's when the client's node is silent).

    `readdress`: a standing connection that a hard exclusion swallowed gets other addresses, if there are any;
    otherwise it stands. Without it it always stands.

    A connection that a node reports and nobody granted is adopted: same endpoint, same addresses, same
    revision where nothing else changed, so that the node has nothing to do.
    """
    key = request.key
    granted = state.grants.get(key)
    previous = granted or _adoptable(state, request, reported)
    known = state.last_known(key)
    last = max(known.revision if known else 0, reported.revision if reported else 0)
    result: Granted | Refused | None = None
    if readdress and granted is not None and state.is_affected(key):
        result = decide(state, request, previous=previous, revision=last + 1, readdress=True)
    if not isinstance(result, Granted):
        result = decide(state, request, previous=previous, revision=last + 1)
    match result:
        case Granted(connection):
            if connection == granted:
                return Writes(forgiven=_standing(refusal))
            before = state.release(key)
            state.grant(connection)
            keys = {each.key for each in per_node(connection)}
            return Writes(
                released=tuple(each for each in _per_node(before) if each.key not in keys),
                granted=connection,
                forgiven=_standing(refusal),
            )
        case Refused(reason):
            return Writes(
                released=_per_node(state.release(key)),
                refused=reason if reason != refusal else None,
            )


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
