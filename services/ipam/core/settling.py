"""From a request, or its absence, to what has to be written; the state is brought along."""

from schemas import grant, intent
from schemas.grant import Connection
from schemas.subjects import RefusalKey, RequestKey
from services.ipam.core.deciding import Granted, Refused, decide
from services.ipam.core.state import State
from services.ipam.model import Writes


def settle(
    state: State,
    request: intent.Request,
    *,
    refusal: grant.Refusal | None,
    reported: Connection | None,
) -> Writes:
    """Answer a request. `refusal` is what stands on the bus, `reported` what its node says it has.

    A connection that a node reports and nobody granted is adopted: same endpoint, same addresses, same
    revision where nothing else changed, so that the node has nothing to do.
    """
    key = request.key
    granted = state.grants.get(key)
    previous = granted or _adoptable(state, request, reported)
    known = state.last_known(key)
    last = max(known.revision if known else 0, reported.revision if reported else 0)
    result = decide(state, request, previous=previous, revision=last + 1)
    match result:
        case Granted(connection):
            if connection == granted:
                return Writes(forgiven=_standing(refusal))
            moved = state.release(key)
            state.grant(connection)
            old = (moved,) if moved is not None and moved.key != connection.key else ()
            return Writes(released=old, granted=connection, forgiven=_standing(refusal))
        case Refused(reason):
            released = state.release(key)
            return Writes(
                released=(released,) if released is not None else (),
                refused=reason if reason != refusal else None,
            )


def abandon(state: State, key: RequestKey, *, refusal: grant.Refusal | None) -> Writes:
    """Nobody asks any more."""
    released = state.release(key)
    return Writes(released=(released,) if released is not None else (), forgiven=_standing(refusal))


def _adoptable(
    state: State, request: intent.Request, reported: Connection | None
) -> Connection | None:
    """What the node has of this very Pod, unless we took it back ourselves."""
    if reported is None or reported.client.pod.uid != request.pod.uid:
        return None
    released = [h for h in state.held(request.key) if h.is_released]
    if any(held.revision >= reported.revision for held in released):
        return None
    return reported if reported.node == request.pod.node else None


def _standing(refusal: grant.Refusal | None) -> RefusalKey | None:
    return refusal.key if refusal is not None else None
