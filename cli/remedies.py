"""What to do about a reason, and where to look: a lab and a cluster have different commands for the same thing."""

import msgspec

from schemas.reasons import OBJECTS

SYSTEM = "nsm-system"

WAIT = "wait; if it stays: nsm status"


class Place(msgspec.Struct, frozen=True):
    """Where the mesh runs that is looked at."""

    is_lab: bool

    def start(self, service: str, node: str = "") -> str:
        """How to have a service back that is not there."""
        if not self.is_lab:
            return self.see(service, node)
        process = f"{service}/{node}" if node else service
        return f"nsm lab start {process}; if it runs: nsm lab logs {process}"

    def see(self, service: str, node: str = "") -> str:
        """How to look at a service, on a node."""
        if self.is_lab:
            return f"nsm lab ps; nsm lab logs {service}{'/' + node if node else ''}"
        pods = f"kubectl -n {SYSTEM} get pods -l app.kubernetes.io/name={service}"
        if node:
            return (
                f"{pods} --field-selector spec.nodeName={node}; then: kubectl -n {SYSTEM} logs POD"
            )
        return f"{pods}; kubectl -n {SYSTEM} logs -l app.kubernetes.io/name={service}"


def is_users(reason: str) -> bool:
    """Whether somebody else than who runs the mesh has to act."""
    known = OBJECTS.get(reason)
    return known is not None and known.is_users


def of_reason(reason: str) -> str:
    """What to do about a reason, as the reference has it."""
    known = OBJECTS.get(reason)
    return known.remedy.replace("`", "") if known is not None and known.remedy else WAIT
