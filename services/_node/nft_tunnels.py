"""The tunnel port of a node: it listens to known peers only, and speaks to them only.

A tunnel has no secret: without this table, whoever reaches the port can inject frames into Pods. Its output is
filtered too, because a Pod with NET_ADMIN may point its own end elsewhere. The table outlives our process, as the
tunnels do. Each change replaces it as a whole, in one transaction: no packet sees half of it, and what stood
before need not be known.
"""

import ipaddress
from collections.abc import Collection, Iterator

from services._node import nft, nft_rules
from services._node.nft import Message, Nft, NftError

TABLE = "nsm_tunnels"

_UDP = bytes([17])
_PRIORITY = -10  # before the tables of others
_AT_ONCE = 1000
_VERSIONS = (4, 6)


def admit(socket: Nft, peers: Collection[str], *, port: int) -> None:
    """From now on exactly these addresses; none: there is no table. Raises NftError."""
    messages = [nft_rules.table(TABLE, exclusive=False), nft_rules.delete_table(TABLE)]
    if peers:
        messages += _ruleset(peers, port)
    socket.transact(messages)


def stands(socket: Nft) -> bool:
    """Whether the table is there, rules and all. Raises NftError."""
    question = Message(nft.GET_RULE, nft.INET, nft.text(1, TABLE))
    try:
        return len(socket.dump(question)) == len(list(_rules(0)))
    except NftError:
        return False


def _ruleset(peers: Collection[str], port: int) -> Iterator[Message]:
    yield nft_rules.table(TABLE)
    for version in _VERSIONS:
        name = _set_name(version)
        yield nft_rules.address_set(TABLE, name, version=version)
        packed = sorted(a.packed for a in map(ipaddress.ip_address, peers) if a.version == version)
        for at in range(0, len(packed), _AT_ONCE):
            yield nft_rules.add_addresses(TABLE, name, packed[at : at + _AT_ONCE])
    for name, hook in (("input", nft_rules.LOCAL_IN), ("output", nft_rules.LOCAL_OUT)):
        yield nft_rules.chain(TABLE, f"{name}_tunnels")
        yield nft_rules.base_chain(TABLE, name, kind="filter", hook=hook, priority=_PRIORITY)
    yield from _rules(port)


def _rules(port: int) -> Iterator[Message]:
    of_tunnels = [*nft_rules.meta_is(nft_rules.L4PROTO, _UDP), *nft_rules.port_is(port)]
    for name, source in (("input", True), ("output", False)):
        chain = f"{name}_tunnels"
        yield nft_rules.rule(TABLE, name, [*of_tunnels, *nft_rules.jump(chain)])
        for version in _VERSIONS:
            known = nft_rules.address_is_in(_set_name(version), version=version, source=source)
            yield nft_rules.rule(TABLE, chain, [*known, *nft_rules.accept()])
        yield nft_rules.rule(TABLE, chain, nft_rules.drop())


def _set_name(version: int) -> str:
    return f"peers{version}"
