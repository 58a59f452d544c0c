"""What the kernel's side can answer. Each names the thing; the service turns it into a reason."""

from services._node.errors import Gone, Refused

__all__ = ["Conflict", "Gone", "Refused"]


class Conflict(Exception):
    """Somebody else redirects the Pod's port 53. It was not touched."""
