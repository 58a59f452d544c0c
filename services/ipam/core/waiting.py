"""What was decided and has to wait: for a node to let go, to be heard, or to carry more.

An obstacle keeps a request waiting, never takes away what stands.
"""

from schemas import grant, intent
from schemas.grant import Connection
from schemas.reasons import NOT_RELEASED
from services.ipam.core import blocks, pod_uses, refusing
from services.ipam.core.linking import LEAST_MTU, TUNNEL
from services.ipam.core.state import Holding, State, addresses_of

MOST_SILENT = 1  # a tunnel has two ends: what only one silent node has, the other end tells


def obstacle(
    state: State,
    request: intent.Request,
    connection: Connection,
    previous: Connection | None,
) -> grant.Refusal | None:
    """Why a connection cannot be made yet. `previous` is what the request has, or what its node has of it."""
    if connection == previous:
        return None
    problem = (
        _number_unsure(state, connection, previous)
        or _too_small(connection)
        or (_not_let_go(state, connection) if previous is None else None)
    )
    if problem is None:
        return None
    reason, text = problem
    message = f"network service {request.network_service}: {text}"
    return refusing.refuse(request, reason, message)


def _number_unsure(
    state: State, connection: Connection, previous: Connection | None
) -> tuple[str, str] | None:
    """Two silent nodes may have a tunnel between them that nobody tells the number of."""
    is_new = connection.vni and (previous is None or previous.vni != connection.vni)
    if not is_new or len(state.silent) <= MOST_SILENT:
        return None
    nodes = sorted(state.silent)
    more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    text = (
        f"needs a tunnel, and nodes {', '.join(nodes[:3])}{more} have not told yet which they have"
    )
    return "NodeSilent", f"{text}; {refusing.REMEDIES['NodeSilent']}"


def _too_small(connection: Connection) -> tuple[str, str] | None:
    ends = connection.client, connection.server
    if connection.mechanism != TUNNEL or connection.mtu >= LEAST_MTU:
        return None
    if not any(address.version == 6 for end in ends for address in addresses_of(end)):
        return None
    nodes = " and ".join(end.pod.node for end in ends)
    text = (
        f"a tunnel between nodes {nodes} has an MTU of {connection.mtu}, and IPv6 needs {LEAST_MTU}"
    )
    remedy = "raise the MTU between these nodes, or give the endpoint IPv4 prefixes alone"
    return "RemoteNotSupported", f"{text}; {remedy}"


def _not_let_go(state: State, connection: Connection) -> tuple[str, str] | None:
    """One of the two Pods has it by another connection that its node has not taken down."""
    if not state.leaving.knows(connection.client.pod.uid, connection.server.pod.uid):
        return None
    for uid, block, owner in pod_uses.uses_of(Holding.of(connection)):
        other = state.leaving.overlapping(uid, block, but=owner)
        if other is not None:
            text = f"{blocks.show(block)} overlaps {other}, which its node has not taken down yet"
            remedy = "granted as soon as it has; if that takes long, see the plumber of that node"
            return NOT_RELEASED, f"{text}; {remedy}"
    return None
