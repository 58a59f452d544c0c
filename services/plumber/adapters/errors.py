"""What the kernel's side can answer. Each names the thing; the service turns it into a status reason."""

from collections.abc import Collection

from services._node.errors import Gone, Refused
from services.plumber.model import Rival

__all__ = ["Gone", "NameTaken", "Refused", "RouteTaken", "Standing"]


class Standing(Refused):
    """What was to be made stands already, complete. It was not touched: read it, and change it in place."""

    def __init__(self, interface: str) -> None:
        super().__init__(f"{interface}: a complete link of this connection stands already")


class NameTaken(Exception):
    """An interface that is not ours has the name. It was not touched."""

    def __init__(self, interface: str, uid: str) -> None:
        super().__init__(
            f"has an interface {interface!r} already that is not ours; "
            "rename it or ask for another interface name in the annotation"
        )
        self.uid = uid


class RouteTaken(Refused):
    """Routes that are not this connection's stand where its own shall. They were not touched."""

    def __init__(self, interface: str, rivals: Collection[Rival]) -> None:
        named = ", ".join(
            f"{rival} (another connection's)" if rival.is_ours else str(rival)
            for rival in sorted(rivals)
        )
        remedy = "delete that route in the Pod's network"
        if all(rival.is_ours for rival in rivals):
            remedy = "wait until it goes with that connection"
        super().__init__(
            f"{interface}: in the way of its routes stands {named}; {remedy}, "
            "or let the endpoint give another prefix or route"
        )
