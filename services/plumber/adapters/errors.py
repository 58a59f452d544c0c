"""What the kernel's side can answer. Each names the thing; the service turns it into a status reason."""

from services._node.errors import Gone, Refused

__all__ = ["Gone", "NameTaken", "Refused", "Standing"]


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
