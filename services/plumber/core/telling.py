"""What is said of a connection: a section per end that lives on this node, from what the kernel has."""

from ipaddress import ip_interface

import msgspec

from schemas import grant as grants
from schemas.state import EndState, EndStatus, Status
from services.plumber.model import Blocked, Found, Pair, Waiting


def status(
    grant: grants.Connection,
    *,
    node: str,
    pair: Pair,
    waiting: Waiting,
    applied: grants.Connection | None = None,
) -> Status:
    """What to say of a connection: a section per end that lives on this node.

    `applied` is the grant that what stands was made from: after a failed change not the newest one.
    """
    return Status(
        node=node,
        namespace=grant.client.pod.namespace,
        pod=grant.client.pod.name,
        interface=grant.client.interface,
        revision=grant.revision,
        client=_section(grant.client, pair.client, waiting.client, applied)
        if grant.client.is_on(node)
        else None,
        server=_section(grant.server, pair.server, waiting.server, applied)
        if grant.server.is_on(node)
        else None,
    )


def unseen(status: Status, applied: grants.Connection) -> Status:
    """The same where nobody could look: what was applied counts as standing."""

    def holding(end: EndStatus | None) -> EndStatus | None:
        return None if end is None else msgspec.structs.replace(end, applied=applied)

    return msgspec.structs.replace(
        status, client=holding(status.client), server=holding(status.server)
    )


def _section(
    end: grants.End,
    found: Found | None,
    blocked: Blocked | None,
    applied: grants.Connection | None,
) -> EndStatus:
    state: EndState = "ready"
    if blocked is not None:
        state = "failed" if blocked.state == "failed" else "pending"
    elif found is None:
        blocked = Blocked(
            state="pending", reason="PeerNotReady", message="the other end is not ready"
        )
        state = "pending"
    return EndStatus(
        uid=end.pod.uid,
        state=state,
        reason=blocked.reason if blocked else "",
        message=blocked.message if blocked else "",
        interface=end.interface,
        ifindex=found.index if found else 0,
        mac=found.mac if found else "",
        addresses=tuple(
            a
            for a in end.addresses
            if found and (a in found.addresses or str(ip_interface(a)) in found.addresses)
        ),
        applied=applied if found else None,
    )
