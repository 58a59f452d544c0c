"""Grants as ipam would write them, for the two families."""

from typing import Any, TypeVar

import msgspec

from schemas.grant import Connection, End
from schemas.intent import PodRef, Route

NODE = "node1"

T = TypeVar("T")

V4 = ("172.16.1.2/32", "172.16.1.1/32", "10.20.0.0/16")
V6 = ("2001:db8::2/128", "2001:db8::1/128", "2001:db9::/48")


def there(found: T | None) -> T:
    """What must be there."""
    assert found is not None
    return found


def a_pod(name: str, *, uid: str = "", node: str = NODE) -> PodRef:
    return PodRef(namespace="default", name=name, uid=uid or f"uid-{name}", node=node)


def a_grant(
    *families: tuple[str, str, str],
    client: str = "client",
    server: str = "server",
    number: int = 1,
    **fields: Any,
) -> Connection:
    """A connection of two Pods; `number` makes interfaces and MACs its own."""
    families = families or (V4,)
    base = Connection(
        node=NODE,
        revision=1,
        network_service="vpn",
        network_service_namespace="default",
        endpoint="vpn-endpoint",
        endpoint_namespace="default",
        client=End(
            pod=a_pod(client),
            interface="nsm0",
            mac=f"02:00:00:00:01:{number:02x}",
            addresses=tuple(family[0] for family in families),
            routes=tuple(Route(destination=family[2]) for family in families),
        ),
        server=End(
            pod=a_pod(server),
            interface=f"nse-{number}",
            mac=f"02:00:00:00:02:{number:02x}",
            addresses=tuple(family[1] for family in families),
        ),
        mtu=1400,
    )
    return msgspec.structs.replace(base, **fields)


def with_client(grant: Connection, **fields: Any) -> Connection:
    client = msgspec.structs.replace(grant.client, **fields)
    return msgspec.structs.replace(grant, client=client, revision=grant.revision + 1)


def with_server(grant: Connection, **fields: Any) -> Connection:
    server = msgspec.structs.replace(grant.server, **fields)
    return msgspec.structs.replace(grant, server=server, revision=grant.revision + 1)
