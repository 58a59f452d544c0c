"""What a connection holds: addresses and tunnel number stay taken until every node it touched let go.

A connection across nodes concerns two of them; its holding ends when both have confirmed, or are gone. The bus
keeps one message per node and connection: what a new one writes over is told in it as `held`.
"""

from collections.abc import Iterable

import msgspec

from schemas import grant
from schemas.codec import Tombstone
from schemas.grant import Connection, Former
from schemas.subjects import ConnectionKey, EndpointKey, RequestKey
from schemas.values import Address
from services.ipam.core import blocks
from services.ipam.core.blocks import Block, Host
from services.ipam.core.spaces import CLIENT, GRANTED, SERVER

ObjectKey = tuple[str, str]  # namespace and name of a NetworkServiceEndpoint object


class Holding(msgspec.Struct, frozen=True):
    """What one revision of a connection takes."""

    key: RequestKey
    uid: str
    revision: int
    node: str  # the client's
    nodes: frozenset[str]  # that have not confirmed yet that nothing of it stands there
    object: ObjectKey
    client: tuple[Host, ...]
    server: tuple[Host, ...]
    vni: int = 0
    is_released: bool = False  # we took it back; otherwise a node has it that we know nothing of
    server_uid: str = ""
    routes: tuple[Block, ...] = ()  # of the client, those of policies as well

    @classmethod
    def of(cls, connection: Connection) -> "Holding":
        """Of the original or of the copy alike. Raises ValueError if an address or a route is none."""
        client, server = connection.client, connection.server
        return cls(
            key=request_key(connection),
            uid=client.pod.uid,
            revision=connection.revision,
            node=client.pod.node,
            nodes=frozenset((client.pod.node, server.pod.node)),
            object=object_key(connection),
            client=tuple(map(blocks.read_host, client.addresses)),
            server=tuple(map(blocks.read_host, server.addresses)),
            vni=connection.vni,
            server_uid=server.pod.uid,
            routes=routes_of(connection),
        )

    @classmethod
    def of_tombstone(cls, key: ConnectionKey, tombstone: Tombstone) -> "Holding":
        """What a released grant held, as far as the node of this subject is concerned.

        Raises ValueError if the addresses are none.
        """
        namespace, _, name = tombstone.endpoint.partition("/")
        return cls(
            key=RequestKey(key.namespace, key.pod, key.interface),
            uid=tombstone.released,
            revision=tombstone.revision,
            node=tombstone.node or key.node,
            nodes=frozenset((key.node,)),
            object=(namespace, name),
            client=tuple(map(blocks.read_host, tombstone.addresses)),
            server=tuple(map(blocks.read_host, tombstone.peer_addresses)),
            vni=tombstone.vni,
            is_released=True,
        )

    @classmethod
    def formers_of_tombstone(cls, key: ConnectionKey, tombstone: Tombstone) -> list["Holding"]:
        """What the node of this subject may still have of before. Raises ValueError."""
        own, client = RequestKey(key.namespace, key.pod, key.interface), tombstone.node or key.node
        return [cls.of_former(f, own, node=client, nodes=(key.node,)) for f in tombstone.held]

    @classmethod
    def of_former(
        cls, former: Former, key: RequestKey, *, node: str, nodes: Iterable[str]
    ) -> "Holding":
        """What `nodes` may still have of before. `node` is the client's. Raises ValueError."""
        namespace, _, name = former.endpoint.partition("/")
        return cls(
            key=key,
            uid=former.uid,
            revision=former.revision,
            node=node,
            nodes=frozenset(nodes),
            object=(namespace, name),
            client=tuple(map(blocks.read_host, former.addresses)),
            server=tuple(map(blocks.read_host, former.peer_addresses)),
            vni=former.vni,
            is_released=True,
        )

    def as_former(self) -> Former:
        """To be told by the revision that is written over it."""
        return Former(
            uid=self.uid,
            revision=self.revision,
            endpoint="/".join(self.object),
            addresses=tuple(blocks.show(blocks.of_host(host)) for host in self.client),
            peer_addresses=tuple(blocks.show(blocks.of_host(host)) for host in self.server),
            vni=self.vni,
        )

    def has_all_of(self, other: "Holding") -> bool:
        """Whether nothing of another revision is lost where this one is known."""
        return (
            self.object == other.object
            and {*self.client, *self.server}.issuperset((*other.client, *other.server))
            and other.vni in {0, self.vni}
        )

    def is_same(self, other: "Holding") -> bool:
        """Whether both are one revision of one connection."""
        return (self.uid, self.revision, self.node) == (other.uid, other.revision, other.node)

    def claims(self, *, is_granted: bool) -> dict[Host, int]:
        """Its addresses, and what it has them as."""
        granted = GRANTED if is_granted else 0
        claims = dict.fromkeys(self.client, CLIENT | granted)
        for host in self.server:
            claims[host] = claims.get(host, 0) | SERVER | granted
        return claims


def request_key(connection: Connection) -> RequestKey:
    """The key of the request that a connection answers."""
    pod = connection.client.pod
    return RequestKey(pod.namespace, pod.name, connection.client.interface)


def endpoint_key(connection: Connection) -> EndpointKey:
    """The endpoint Pod at the other end."""
    return EndpointKey(
        connection.endpoint_namespace, connection.endpoint, connection.server.pod.name
    )


def object_key(connection: Connection) -> ObjectKey:
    """The NetworkServiceEndpoint object whose pool a connection draws from."""
    return connection.endpoint_namespace, connection.endpoint


def routes_of(connection: Connection) -> tuple[Block, ...]:
    """Where a connection leads its client to, and the addresses that policies give it.

    A policy's default route is looked up for what matches the policy alone: it takes nothing from others.
    """
    own = [blocks.read_block(route.destination) for route in connection.client.routes]
    of_policies = [
        blocks.read_block(route.destination)
        for policy in connection.policies
        for route in policy.routes
    ]
    given = [block for policy in connection.policies if (block := blocks.read_source(policy))]
    return (*own, *(block for block in of_policies if block[2]), *given)


def addresses_of(end: grant.End) -> list[Address]:
    """An end's addresses without their lengths."""
    return [blocks.address_of(blocks.read_host(text)) for text in end.addresses]
