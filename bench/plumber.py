"""How long the kernel's side of a connection takes: `python -m bench.plumber [--count 100] [--existing 0 1000 3000]`.

Set-up and removal by the plumber's adapter, one after the other (medians) and many at once (all of it, divided);
beside them in the same run the floor (the same links from messages that were packed before; removed by one request for
all of them, and by one for each, which waits for RCU in the kernel each time), `ip -batch`, and CNI plugins where they
are installed. `--quick`: a hundred, no other interfaces. The plumber does more than the floor: it opens and checks both
networks, sends a frame each way before it says `ready`, and writes whose the links are.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.scene import Scene, alone
from services._node import encoding, links, netns
from services.plumber.adapters import Kernel
from services.plumber.model import Create, Remove, Wiring

CNI_PLACES = ("/opt/cni/bin", "/usr/lib/cni")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="connections per figure")
    parser.add_argument("--existing", type=int, nargs="*", default=[0, 1000, 3000])
    parser.add_argument("--quick", action="store_true", help="as --existing 0")
    options = parser.parse_args()
    if options.quick:
        options.existing = [0]
    alone()
    print(f"{'ms per connection':42} {'set-up':>9} {'removal':>9}")
    for existing in options.existing:
        with tempfile.TemporaryDirectory() as directory:
            scene = Scene(Path(directory), options.count)
            scene.crowd(existing)
            print(f"-- {existing} other interfaces in the endpoint's network")
            for name, (up, down) in _figures(scene):
                print(f"{name:42} {up:9.2f} {down:9.2f}")
            scene.end()


def _figures(scene: Scene) -> Iterator[tuple[str, tuple[float, float]]]:
    yield "floor: messages packed before, bare loop", floor(scene)
    yield "floor, each removed by itself", floor(scene, together=False)
    yield "plumber, one after the other", asyncio.run(singly(scene))
    yield "plumber, all at once", asyncio.run(together(scene))
    if shutil.which("ip"):
        yield "ip -batch, two processes", ip_batch(scene)
    else:
        print("(ip is not installed)", file=sys.stderr)
    for plugin in ("ptp", "bridge"):
        if (binary := _plugin(plugin)) is not None:
            yield f"CNI {plugin} + host-local (one Pod, no pair)", cni(scene, binary)


def floor(scene: Scene, *, together: bool = True) -> tuple[float, float]:
    """The links, addresses and routes of a connection, and nothing else; removed in one request, or one by one."""
    packed = [_messages(wiring, scene.server_fd) for wiring in scene.wirings]
    with links.Netlink(scene.server.netns) as there:
        sockets = [links.Netlink(client.netns) for client in scene.clients]
        ups: list[float] = []
        for here, (one, other) in zip(sockets, packed, strict=True):
            began = time.perf_counter()
            here.request(one)
            there.request(other)
            ups.append(time.perf_counter() - began)
        numbers = [_numbers(wiring)[1] for wiring in scene.wirings]
        one_by_one = [[encoding.delete_link(number)] for number in numbers]
        began = time.perf_counter()
        for request in [[encoding.delete_link(group=_GROUP)]] if together else one_by_one:
            there.request(request)
        down = time.perf_counter() - began
        for each in sockets:
            each.close()
    return statistics.median(ups) * 1e3, _each(scene, down)


_GROUP = 7


def _messages(
    wiring: Wiring, server_fd: int
) -> tuple[list[encoding.Request], list[encoding.Request]]:
    born = [
        encoding.Identity(end.interface, end.mac, wiring.mtu, _GROUP, number)
        for end, number in zip(wiring.ends, _numbers(wiring), strict=True)
    ]
    rest = [
        [
            encoding.settings(identity.number),
            *(
                links.address(links.NEWADDR, index=identity.number, address=a, flags=links.CREATE)
                for a in end.addresses
            ),
            *(
                links.route(
                    links.NEWROUTE,
                    index=identity.number,
                    destination=r.destination,
                    source=r.source,
                    flags=links.CREATE,
                )
                for r in end.routes
            ),
        ]
        for end, identity in zip(wiring.ends, born, strict=True)
    ]
    return [encoding.veth(*born, other_netns=server_fd), *rest[0]], rest[1]


def _numbers(wiring: Wiring) -> tuple[int, int]:
    number = 0x20000000 + int(wiring.tag[:5], 16) * 2
    return number, number + 1


async def singly(scene: Scene) -> tuple[float, float]:
    kernel = Kernel()
    ups, downs = [], []
    removals = []
    for wiring in scene.wirings:
        began = time.perf_counter()
        removals.append(await _create(kernel, wiring))
        ups.append(time.perf_counter() - began)
    for removal in removals:
        began = time.perf_counter()
        await kernel.apply(removal)
        downs.append(time.perf_counter() - began)
    kernel.close()
    return statistics.median(ups) * 1e3, statistics.median(downs) * 1e3


async def together(scene: Scene) -> tuple[float, float]:
    kernel = Kernel()
    began = time.perf_counter()
    removals = await asyncio.gather(*(_create(kernel, wiring) for wiring in scene.wirings))
    up = time.perf_counter() - began
    began = time.perf_counter()
    await asyncio.gather(*map(kernel.apply, removals))
    down = time.perf_counter() - began
    kernel.close()
    return _each(scene, up), _each(scene, down)


async def _create(kernel: Kernel, wiring: Wiring) -> Remove:
    pair = await kernel.apply(Create(wiring=wiring))
    return Remove(connection=wiring.tag, ends=pair.ends)


def ip_batch(scene: Scene) -> tuple[float, float]:
    """A process in each of the two networks, as a script would."""
    chosen = scene.wirings[:20]
    ups, downs = [], []
    for wiring, client in zip(chosen, scene.clients, strict=False):
        one, other = wiring.ends
        began = time.perf_counter()
        peer = f"peer name {other.interface} address {other.mac} netns {scene.server_pid}"
        first = f"link add {one.interface} address {one.mac} mtu {wiring.mtu} type veth {peer}\n"
        _ip(client.netns, first + _lines(one))
        _ip(scene.server.netns, _lines(other))
        ups.append(time.perf_counter() - began)
    for wiring in chosen:
        began = time.perf_counter()
        _ip(scene.server.netns, f"link del {wiring.ends[1].interface}\n")
        downs.append(time.perf_counter() - began)
    return statistics.median(ups) * 1e3, statistics.median(downs) * 1e3


def _lines(end: object) -> str:
    name = end.interface  # type: ignore[attr-defined]
    lines = [f"link set {name} up"]
    lines += [f"address add {a} dev {name}" for a in end.addresses]  # type: ignore[attr-defined]
    lines += [f"route add {r.destination} dev {name}" for r in end.routes]  # type: ignore[attr-defined]
    return "\n".join(lines) + "\n"


def _ip(path: str, lines: str) -> None:
    def run() -> None:
        subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)

    netns.in_netns(path, run)


def _plugin(name: str) -> Path | None:
    for place in CNI_PLACES:
        if Path(place, name).exists() and Path(place, "host-local").exists():
            return Path(place, name)
    return None


def cni(scene: Scene, binary: Path) -> tuple[float, float]:
    """What a kubelet's runtime would do for one Pod."""
    configuration = {
        "cniVersion": "1.0.0",
        "name": f"bench-{binary.name}",
        "type": binary.name,
        "ipam": {"type": "host-local", "subnet": "10.99.0.0/16", "dataDir": str(scene.directory)},
    }
    figures: dict[str, list[float]] = {"ADD": [], "DEL": []}
    for command, taken in figures.items():
        for number, client in enumerate(scene.clients[:20]):
            environment = {
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": f"bench{number}",
                "CNI_NETNS": client.netns,
                "CNI_IFNAME": "eth1",
                "CNI_PATH": str(binary.parent),
                "PATH": os.environ["PATH"],
            }
            began = time.perf_counter()
            _in(scene.server.netns, [str(binary)], environment, json.dumps(configuration))
            taken.append(time.perf_counter() - began)
    return statistics.median(figures["ADD"]) * 1e3, statistics.median(figures["DEL"]) * 1e3


def _in(path: str, command: Sequence[str], environment: dict[str, str], text: str) -> None:
    run: Callable[[], object] = lambda: subprocess.run(  # noqa: E731
        command, input=text.encode(), env=environment, check=True, capture_output=True
    )
    netns.in_netns(path, run)


def _each(scene: Scene, seconds: float) -> float:
    return seconds * 1e3 / len(scene.wirings)


if __name__ == "__main__":
    main()
