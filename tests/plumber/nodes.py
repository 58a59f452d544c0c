"""Two nodes with a network between them: namespaces that are no Pod's."""

import os
from pathlib import Path
from typing import Any

import msgspec

from schemas.grant import Connection
from services._node import encoding, links, netns
from services.plumber import core
from services.plumber.adapters import Kernel
from services.plumber.model import Wiring
from tests.node.sandboxes import Pod
from tests.plumber.grants import a_grant, a_pod

MTU = 1500
ADDRESSES = {"node1": ("172.18.0.11", "fd00:18::11"), "node2": ("172.18.0.12", "fd00:18::12")}


class Nodes:
    """`node1` and `node2`, joined by a cable."""

    def __init__(self, directory: Path) -> None:
        self.paths = {name: str(directory / f"netns-{name}") for name in ADDRESSES}
        for path in self.paths.values():
            netns.create(path)
        one, other = self.paths.values()
        fd = netns.open_fd(other)
        with links.Netlink(one) as here:
            ends = [encoding.Identity("eth0", f"02:00:00:18:00:0{n}", MTU, 0, 10) for n in (1, 2)]
            here.request([encoding.veth(*ends, other_netns=fd)])
        os.close(fd)
        for name, addresses in ADDRESSES.items():
            with links.Netlink(self.paths[name]) as inside:
                inside.request([encoding.settings(1), encoding.settings(10)])
                for address, length in zip(addresses, (24, 64), strict=True):
                    inside.request(
                        [
                            links.address(
                                links.NEWADDR,
                                index=10,
                                address=f"{address}/{length}",
                                flags=links.CREATE,
                            )
                        ]
                    )

    def set_cable(self, *, up: bool) -> None:
        with links.Netlink(self.paths["node2"]) as inside:
            inside.request([links.link(links.NEWLINK, index=10, up=up)])


def remote(*families: tuple[str, str, str], underlay: int = 4, **fields: Any) -> Connection:
    """A grant of a client on node1 and a server on node2."""
    grant = a_grant(*families, mechanism="vxlan", vni=77, mtu=MTU - 50, **fields)
    at = 0 if underlay == 4 else 1
    return msgspec.structs.replace(
        grant,
        client=msgspec.structs.replace(grant.client, underlay=ADDRESSES["node1"][at]),
        server=msgspec.structs.replace(
            grant.server, pod=a_pod("server", node="node2"), underlay=ADDRESSES["node2"][at]
        ),
        mtu=MTU - (50 if underlay == 4 else 70),
    )


async def halves(
    kernels: dict[str, Kernel], grant: Connection, client: Pod, server: Pod
) -> tuple[Wiring, Wiring]:
    """What each node makes of a remote grant."""
    here = await kernels["node1"].find_place(client.result)
    there = await kernels["node2"].find_place(server.result)
    return core.wiring(grant, here, None), core.wiring(grant, None, there)
