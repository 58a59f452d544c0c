"""Values between the core, the settings and the store: what settling asks to be written, where pools are carved."""

import msgspec

from schemas.grant import Connection, Refusal
from schemas.subjects import RefusalKey
from schemas.values import Prefix


class Supernet(msgspec.Struct, frozen=True):
    """Where prefixes of endpoints that name none are carved from, each of `length`: `100.112.0.0/12`, 24."""

    prefix: Prefix
    length: int


class Writes(msgspec.Struct, frozen=True, kw_only=True):
    """Writes of one request, to be made in this order.

    `released`: each is to be buried under its own key; the copy under an endpoint's node is one of its own.
    `granted`: to be written under every node it concerns (`per_node`), the client's first.
    """

    released: tuple[Connection, ...] = ()
    granted: Connection | None = None
    forgiven: RefusalKey | None = None
    refused: Refusal | None = None


def per_node(connection: Connection) -> tuple[Connection, ...]:
    """A connection as it is published: under the client's node, and as a copy under the endpoint's if it differs."""
    nodes = dict.fromkeys((connection.client.pod.node, connection.server.pod.node))
    return tuple(msgspec.structs.replace(connection, node=node) for node in nodes)


def is_copy(connection: Connection) -> bool:
    """Whether this is the copy for the endpoint's node. Whose original is gone, or newer, has to go."""
    return connection.node != connection.client.pod.node
