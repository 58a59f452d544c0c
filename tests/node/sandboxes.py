"""Pods' networks for tests: real namespaces with an address on their loopback and a CNI result file."""

import os
import socket
import threading
from pathlib import Path

import pytest

from services._node import cni, links, netns
from services._node.cni import CniResult


def ensure_namespaces_allowed(directory: Path) -> None:
    """Skip, saying why, where namespaces cannot be made; become root of a user namespace if that helps."""
    if os.geteuid() != 0 and threading.active_count() == 1:
        _enter_user_namespace()
    probe = directory / "probe"
    try:
        netns.create(probe)
    except OSError as exc:
        pytest.skip(f"no network namespaces here ({exc}): run as root or open user namespaces")
    netns.delete(probe)


def _enter_user_namespace() -> None:
    libc = netns._libc
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(0x10000000 | 0x00020000) != 0:  # CLONE_NEWUSER | CLONE_NEWNS
        return
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


class Pod:
    """A sandbox: what a kubelet and its CNI would have made."""

    def __init__(self, directory: Path, name: str, ip: str) -> None:
        self.name = name
        self.uid = f"uid-{name}"
        self.ip = ip
        self.directory = directory
        self.generation = 0
        self.netns = ""
        self.start()

    @property
    def result(self) -> CniResult:
        return CniResult(
            uid=self.uid,
            namespace="default",
            name=self.name,
            container_id=f"{self.uid}-{self.generation}",
            netns=self.netns,
            ips=(f"{self.ip}/24",),
        )

    def start(self) -> None:
        """A new sandbox; the old one, if any, is the caller's to end."""
        self.generation += 1
        self.netns = str(self.directory / f"netns-{self.name}-{self.generation}")
        netns.create(self.netns)
        with links.Netlink(self.netns) as netlink:
            netlink.request([links.link(links.NEWLINK, index=1, up=True)])
        self.add_address(self.ip)

    def add_address(self, ip: str) -> None:
        """On its loopback."""
        added = links.address(links.NEWADDR, index=1, address=f"{ip}/32", flags=links.CREATE)
        with links.Netlink(self.netns) as netlink:
            netlink.request([added])

    def attach(self, results: Path) -> None:
        cni.write(results, self.result)

    def detach(self, results: Path) -> None:
        cni.remove(results, self.result)

    def end(self) -> None:
        netns.delete(self.netns)

    def interfaces(self) -> set[str]:
        with links.Netlink(self.netns) as netlink:
            found = netlink.dump(links.link(links.GETLINK))
        return {each.get_attr("IFLA_IFNAME") for each in found} - {"lo"}

    def index(self, interface: str) -> int:
        with links.Netlink(self.netns) as netlink:
            found = netlink.find_link(interface)
            assert found is not None, f"no interface {interface} in {self.name}"
            return int(found["index"])

    def delete_link(self, interface: str) -> None:
        index = self.index(interface)
        with links.Netlink(self.netns) as netlink:
            netlink.request([links.link(links.DELLINK, index=index)])

    def set_down(self, interface: str) -> None:
        index = self.index(interface)
        with links.Netlink(self.netns) as netlink:
            netlink.request([links.link(links.NEWLINK, index=index, up=False)])

    def is_up(self, interface: str) -> bool:
        with links.Netlink(self.netns) as netlink:
            found = netlink.find_link(interface)
        return found is not None and bool(found["flags"] & links.IFF_UP)

    def addresses(self) -> set[str]:
        with links.Netlink(self.netns) as netlink:
            found = netlink.dump(links.address(links.GETADDR, index=0))
        return {each.get_attr("IFA_ADDRESS") for each in found}

    def has_route(self, destination: str) -> bool:
        ip, _, length = destination.partition("/")
        message = links.route(links.GETROUTE, index=0, family=links.family_of(ip))
        with links.Netlink(self.netns) as netlink:
            found = netlink.dump(message)
        return (ip, int(length)) in {(r.get_attr("RTA_DST"), r["dst_len"]) for r in found}

    def add_link(self, interface: str) -> None:
        """An interface that is none of ours."""
        info = {"attrs": [("IFLA_INFO_KIND", "veth")]}
        with links.Netlink(self.netns) as netlink:
            attrs = [("IFLA_IFNAME", interface), ("IFLA_LINKINFO", info)]
            netlink.request([links.link(links.NEWLINK, flags=links.CREATE, attrs=attrs)])

    def udp(self, address: str = "", port: int = 0) -> socket.socket:
        """A UDP socket in the Pod, bound to an address of it."""
        family = links.family_of(address) if address else socket.AF_INET
        made = netns.open_socket(self.netns, family, socket.SOCK_DGRAM)
        made.settimeout(2)
        made.bind((address, port))
        return made
