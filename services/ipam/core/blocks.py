"""Addresses and prefixes as plain numbers: what the core counts with.

A host is (family, number), a block (family, first number, length). `ipaddress` objects are ten times slower
to make, to hash and to compare; they are for reading text and for showing people.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from schemas import intent, values
from schemas.values import Address, Prefix

BITS = {4: 32, 6: 128}

Host = tuple[int, int]
Block = tuple[int, int, int]


@lru_cache(1 << 16)
def read_host(text: str) -> Host:
    """An address, its length if any left aside. Raises ValueError."""
    address = ipaddress.ip_address(text.partition("/")[0])
    return address.version, int(address)


def read_hosts(texts: Iterable[str]) -> list[Host]:
    """Addresses of a Pod. What is none collides with nothing."""
    found = []
    for text in texts:
        try:
            found.append(read_host(text))
        except ValueError:
            continue
    return found


@lru_cache(1 << 14)
def read_block(text: str) -> Block:
    """A prefix as users have to write it. Raises ValueError."""
    return of_prefix(values.parse_prefix(text))


@lru_cache(1 << 14)
def read_block_loosely(text: str) -> Block:
    """A prefix with host bits, or a bare address. Raises ValueError."""
    return of_prefix(values.parse_prefix_loosely(text))


def read_source(policy: intent.Policy) -> Block | None:
    """The address that a policy is about, if it is one: its client has it, to send from. Raises ValueError."""
    block = read_block_loosely(policy.source) if policy.source else None
    return block if block is not None and block[2] == BITS[block[0]] else None


def of_prefix(prefix: Prefix) -> Block:
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def of_host(host: Host) -> Block:
    return (*host, BITS[host[0]])


def last_of(block: Block) -> int:
    """The highest number of a block."""
    family, first, length = block
    return first | (1 << (BITS[family] - length)) - 1


def has(block: Block, host: Host) -> bool:
    return block[0] == host[0] and block[1] <= host[1] <= last_of(block)


def show(block: Block) -> str:
    """A block as people write it."""
    return f"{address_of(block[:2])}/{block[2]}"


def address_of(host: Host) -> Address:
    family, number = host
    return ipaddress.IPv4Address(number) if family == 4 else ipaddress.IPv6Address(number)


def blocks_of(family: int, first: int, last: int) -> list[Block]:
    """The fewest blocks that make up a range."""
    bits, made = BITS[family], []
    while first <= last:
        size = min(
            (first & -first).bit_length() - 1 if first else bits,
            (last - first + 1).bit_length() - 1,
        )
        made.append((family, first, bits - size))
        first += 1 << size
    return made


def largest_within(family: int, first: int, last: int) -> Block:
    """The largest block inside a range; of several, the lowest."""
    size = (last - first + 1).bit_length() - 1
    while True:
        start = -(-first >> size) << size
        if start + (1 << size) - 1 <= last:
            return family, start, BITS[family] - size
        size -= 1
