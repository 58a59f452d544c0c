"""Which nodes hear nothing of each other through tunnels, and whose connections are lost by that.

A node that cannot hear one other node is told apart from one that hears nobody: nobody is moved from one silent
path to another, so that a node whose own network is broken keeps what it has.
"""

from collections.abc import Set as AbstractSet

from schemas.subjects import RequestKey


class Paths:
    """Empty: everybody is heard."""

    def __init__(self) -> None:
        self.lost: set[RequestKey] = set()  # connections whose other end has been silent for long
        self._unheard: dict[str, set[str]] = {}

    def unheard_from(self, node: str) -> AbstractSet[str]:
        """Nodes of endpoints that clients on a node hear nothing of."""
        return self._unheard.get(node, frozenset())

    def put(self, client: str, server: str, *, is_silent: bool) -> None:
        """What clients on one node said last of the endpoints on another one."""
        unheard = self._unheard.setdefault(client, set())
        if is_silent:
            unheard.add(server)
        else:
            unheard.discard(server)
        if not unheard:
            del self._unheard[client]
