"""The networks of Pods: opened, checked and told apart; never that of the process or of its node.

A file names a network, but only its cookie says which one it is: files are written anew, process ids and inode
numbers are reused. A network is the Pod's only if it holds the addresses that the CNI gave to the Pod.
"""

import contextlib
import errno
import ipaddress
import os
from collections.abc import Callable, Iterator

import msgspec

from services._node import links, netns
from services._node.cni import CniResult
from services._node.errors import Gone, Refused

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ESRCH})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The network of a Pod's sandbox. Another cookie is another namespace, also under the same path."""

    uid: str
    netns: str  # path
    cookie: int  # 0: any
    interface: str = "eth0"  # of the CNI


def find(result: CniResult, *, node_netns: str = "") -> Place:
    """The network that a CNI result names.

    Raises Gone if it is not there or not the Pod's, Refused if that cannot be told now.
    """
    named = Place(uid=result.uid, netns=result.netns, cookie=0, interface=result.interface)
    with opened(named, node_netns=node_netns) as (_, netlink):
        held = _held(netlink, result.netns) if result.ips else set()
        for address in result.ips:
            if _canonical(address) not in held:
                raise Gone(f"{result.netns} does not hold {address} of its CNI result")
        return msgspec.structs.replace(named, cookie=netlink.cookie)


def is_there(place: Place) -> bool:
    """Whether the file still names that network. Not being able to look is no end."""
    try:
        return netns.cookie(place.netns) == place.cookie
    except OSError as exc:
        return exc.errno not in _NOT_THERE
    except ValueError:
        return False


@contextlib.contextmanager
def opened(
    place: Place, *, node_netns: str = "", also: Callable[[], None] | None = None
) -> Iterator[tuple[int, links.Netlink]]:
    """Descriptor and netlink socket of a Pod's network. Raises Gone; Refused if it cannot be told.

    `also` is done in the network by the thread that opens the socket.
    """
    try:
        fd = netns.open_fd(place.netns)
    except OSError as exc:
        raise unreachable(place.netns, exc) from exc
    except ValueError as exc:  # no path at all
        raise Gone(f"{place.netns!r}: {exc}") from exc
    try:
        forbidden = _forbidden(node_netns)
        try:
            netns.guard(fd, *forbidden)
            socket = links.Netlink(fd, also=also)
        except netns.WrongNamespace as exc:
            raise Gone(f"{place.netns}: {exc}") from exc
        except OSError as exc:
            raise unreachable(place.netns, exc) from exc
        with socket:
            if place.cookie not in {0, socket.cookie}:
                raise Gone(f"{place.netns} is another network namespace by now")
            yield fd, socket
    finally:
        os.close(fd)


def unreachable(name: str, error: OSError) -> Gone | Refused:
    """No such file, or one that names no namespace: gone. Anything else (too many open files) tells nothing."""
    text = f"{name}: {error.strerror or error}"
    if error.errno in _EXHAUSTED:
        text += "; raise the limit of open files of this process"
    return Gone(text) if error.errno in _NOT_THERE else Refused(text)


def _forbidden(node_netns: str) -> list[str]:
    """The node's namespace, if it is not our own. Raises Refused if it cannot be told apart."""
    if not node_netns:
        return []
    try:
        netns.identity(node_netns)
    except OSError as exc:
        raise Refused(f"network namespace of the node: {node_netns}: {exc.strerror}") from exc
    return [node_netns]


def _held(netlink: links.Netlink, name: str) -> set[str]:
    """Every address of the network, without lengths."""
    try:
        return {_canonical(each.address) for each in netlink.addresses()}
    except OSError as exc:
        raise Refused(f"{name}: {exc.strerror or exc}") from exc


def _canonical(address: str) -> str:
    """The one spelling that is compared; what is no address stays as it is, and no network holds it."""
    try:
        return str(ipaddress.ip_address(address.partition("/")[0]))
    except ValueError:
        return address
