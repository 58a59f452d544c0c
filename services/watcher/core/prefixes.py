"""Prefixes in use by nodes, Services and the cluster, and those the user excluded.

Told minimal: what lies inside another prefix of the same message is left out, and halves that say the same are
joined. However many there are, every message of them fits the bus: ipam must see each one. What is too much for
one is split into several.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import yaml

from schemas import values
from schemas.intent import PrefixesInUse, UsedPrefix
from schemas.subjects import PrefixKey
from services.watcher.model import ConfigMap, Node, Problem, Ref

KUBEADM: Ref = ("kube-system", "kubeadm-config")
EXCLUDED_NAME = "excluded-prefixes"  # of the ConfigMap in the system namespace
EXCLUDED_DATA = "prefixes"
EXCLUDED = PrefixKey("user", EXCLUDED_NAME)
MALFORMED = "MalformedPrefix"
# The bus takes a mebibyte; the longest namespace, name and IPv6 prefix make about 200 bytes.
_MOST_IN_ONE = 4096
_SERVICE_CIDR = "servicecidr-"
_SUBNETS = (("podSubnet", "Pod network"), ("serviceSubnet", "Service network"))
_ADDRESSES = frozenset({"InternalIP", "ExternalIP"})
_MOST_YAML = 32_768  # reading it takes the loop about 10 µs per character
_MOST_TOLD = 5  # bad lines in one Event, which is cut at a kibibyte
_MOST_QUOTED = 120


def of_node(node: Node) -> PrefixesInUse:
    """Pod CIDRs of both families, and addresses inside and outside of the cluster."""
    name = node.metadata.name
    addresses = [each.address for each in node.status.addresses or () if each.type in _ADDRESSES]
    used = [
        *_used(node.pod_cidrs, f"Pod CIDR of node {name}"),
        *_used(addresses, f"address of node {name}"),
    ]
    return PrefixesInUse(source="node", name=name, prefixes=tuple(minimal(used)))


def of_service_cidr(name: str, cidrs: Iterable[str]) -> PrefixesInUse:
    """What a ServiceCIDR object gives cluster IPs from."""
    used = _used(cidrs, f"ServiceCIDR {name}")
    return PrefixesInUse(
        source="cluster", name=f"{_SERVICE_CIDR}{name}", prefixes=tuple(minimal(used))
    )


def service_cidr_key(name: str) -> PrefixKey:
    return PrefixKey("cluster", f"{_SERVICE_CIDR}{name}")


def _fitting(used: list[UsedPrefix]) -> tuple[PrefixesInUse, ...]:
    """One message if they fit, or as many as it takes."""
    merged = minimal(used)
    # A power of two, half full: while the number stays, a prefix stays in its part, and where it
    # doubles or halves every part is split in two or joined of two.
    count = 1
    while len(merged) > (_MOST_IN_ONE if count == 1 else _MOST_IN_ONE // 2 * count):
        count *= 2
    parts: list[list[UsedPrefix]] = [[] for _ in range(count)]
    for each in merged:
        parts[_place(values.parse_prefix_loosely(each.prefix), count)].append(each)
    return tuple(_part(at, part) for at, part in enumerate(parts))


def _part(at: int, used: Iterable[UsedPrefix]) -> PrefixesInUse:
    name = EXCLUDED_NAME + (f"-{at}" if at else "")
    return PrefixesInUse(source=EXCLUDED.source, name=name, prefixes=tuple(used))


def minimal(
    used: Iterable[UsedPrefix], together: Callable[[list[UsedPrefix]], str] | None = None
) -> list[UsedPrefix]:
    """As few prefixes as cover the same; the order is that of their addresses, IPv4 first.

    Halves of one prefix are joined if they say the same or `together` words what both are used by.
    """
    parsed = [(values.parse_prefix_loosely(each.prefix), each) for each in used]
    found = []
    for version, bits in ((4, 32), (6, 128)):
        family = [
            (int(prefix.network_address), prefix.prefixlen, [each])
            for prefix, each in parsed
            if prefix.version == version
        ]
        for first, length, parts in _blocks(family, bits, join=together is not None):
            network = IPv4Network((first, length)) if version == 4 else IPv6Network((first, length))
            text = together(parts) if together and len(parts) > 1 else parts[0].used_by
            found.append(UsedPrefix(prefix=str(network), used_by=text))
    return found


_Block = tuple[int, int, list[UsedPrefix]]  # first address, length, what it is made of


def _blocks(prefixes: list[_Block], bits: int, *, join: bool) -> list[_Block]:
    """What covers the same. `ipaddress` would stop the loop for seconds."""
    blocks: list[_Block] = []
    for first, length, parts in sorted(prefixes, key=lambda each: each[:2]):
        if blocks and first < blocks[-1][0] + (1 << bits - blocks[-1][1]):
            continue  # inside the one before
        block = (first, length, parts)
        while blocks and _are_halves(blocks[-1], block, bits):
            before, _, others = blocks[-1]
            if not join and others[0].used_by != block[2][0].used_by:
                break
            blocks.pop()
            block = (before, block[1] - 1, [*others, *block[2]] if join else others)
        blocks.append(block)
    return blocks


def _are_halves(one: _Block, other: _Block, bits: int) -> bool:
    size = 1 << bits - other[1]
    return one[1] == other[1] and one[0] == other[0] - size and not one[0] & size


def _place(prefix: values.Prefix, count: int) -> int:
    """Which of `count` parts a prefix is in: that of its last 256 addresses, so that merging seldom moves it."""
    block = int(prefix.network_address) >> 8
    return zlib.crc32(b"%d:%d" % (prefix.version, block)) % count


def of_kubeadm(found: ConfigMap) -> PrefixesInUse:
    """What kubeadm was told about the cluster's networks; what cannot be read says nothing."""
    return PrefixesInUse(
        source="cluster",
        name="kubeadm",
        prefixes=tuple(
            minimal(
                used
                for field, what in _SUBNETS
                for used in _used(_subnets(found, field), f"{what} of the cluster (kubeadm)")
            )
        ),
    )


def of_user(
    found: ConfigMap, standing: Iterable[PrefixesInUse] = ()
) -> tuple[tuple[PrefixesInUse, ...], Problem | None]:
    """The user's own exclusions; a bad line does not spoil the others.

    A mistake never opens what was excluded: `standing`, what is in force, stays so until all can be read.
    """
    what = f"ConfigMap {'/'.join(found.ref)}"
    good: list[UsedPrefix] = []
    data = found.data or {}
    if data and EXCLUDED_DATA not in data:
        has = ", ".join(sorted(data)[:_MOST_TOLD])[:_MOST_QUOTED]
        bad = [f"there is no such key, there is {has}"]
    else:
        bad = []
    for place, text in _lines(data.get(EXCLUDED_DATA, "")):
        try:
            good.append(UsedPrefix(prefix=str(_excluded(text)), used_by=what))
        except ValueError as exc:
            bad.append(f"{place}: {str(exc)[:_MOST_QUOTED]}")
    if not bad:
        return _fitting(good), None
    kept = [each for message in standing for each in message.prefixes]
    return _fitting([*good, *kept]), _malformed(what, bad)


def _excluded(text: str) -> values.Prefix:
    """A prefix, or an address alone. Raises ValueError: which of 10.1.2.3/8 was meant nobody knows."""
    meant = values.parse_prefix_loosely(text)
    if "/" not in text or str(meant.network_address) == str(ip_address(text.partition("/")[0])):
        return meant
    raise ValueError(f"prefix {text!r} has host bits: {meant}, or {text.partition('/')[0]} alone?")


def _malformed(what: str, bad: list[str]) -> Problem:
    more = [f"and {len(bad) - _MOST_TOLD} more"] if len(bad) > _MOST_TOLD else []
    told = "; ".join([*bad[:_MOST_TOLD], *more])
    return Problem(
        reason=MALFORMED,
        message=f"{what}, key {EXCLUDED_DATA}: {told}; write one prefix such as 10.0.0.0/8 per line (the others "
        "are in force, and what was excluded before stays so until all can be read)",
    )


def _lines(text: str) -> Iterator[tuple[str, str]]:
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    if all(line.startswith("- ") for line in lines if line):
        items = [line[2:].strip().strip("\"'") for line in lines if line]
    elif text.lstrip().startswith(("[", "-", "#")) and isinstance(listed := _yaml(text), list):
        # Nested lists are no prefixes, and written out they may be larger than any memory.
        items = [str(e) if isinstance(e, str | int | float) else type(e).__name__ for e in listed]
    else:
        yield from ((f"line {at}", line) for at, line in enumerate(lines, start=1) if line)
        return
    yield from ((f"item {at}", item) for at, item in enumerate(items, start=1))


def _subnets(found: ConfigMap, field: str) -> list[str]:
    told = _yaml((found.data or {}).get("ClusterConfiguration", ""))
    networking = told.get("networking") if isinstance(told, dict) else None
    subnets = networking.get(field) if isinstance(networking, dict) else None
    return [each.strip() for each in subnets.split(",")] if isinstance(subnets, str) else []


def _yaml(text: str) -> Any:
    if len(text) > _MOST_YAML:
        return None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None  # ValueError: what looks like a date and is none


def _used(texts: Iterable[str], what: str) -> Iterator[UsedPrefix]:
    for text in texts:
        try:
            yield UsedPrefix(prefix=str(values.parse_prefix_loosely(text)), used_by=what)
        except ValueError:  # Kubernetes checked it; what is none cannot collide
            continue
