"""A firewall in the way: a node that neither takes in nor lets out what tunnels are made of.

In the node's own network, in a table of its own, so that everything else of the node goes on, heartbeats too. The
other node sees what an operator sees whose cloud is closed: packets leave, none arrive.
"""

import errno

from schemas.grant import TUNNEL_PORT
from services._node import nft_rules
from services._node.netns import Target
from services._node.nft import Nft, NftError

_TABLE = "lab_firewall"
_UDP = bytes([17])
_PRIORITY = -20  # before the plumber's
_ABSENT = frozenset({errno.EOPNOTSUPP, errno.EPROTONOSUPPORT})


def block(node: Target, *, is_blocked: bool) -> None:
    """Drop the tunnels' port from now on, or no more. Either may be said again."""
    messages = [nft_rules.table(_TABLE, exclusive=False), nft_rules.delete_table(_TABLE)]
    if is_blocked:
        of_tunnels = [*nft_rules.meta_is(nft_rules.L4PROTO, _UDP), *nft_rules.port_is(TUNNEL_PORT)]
        messages.append(nft_rules.table(_TABLE))
        for name, hook in (("input", nft_rules.LOCAL_IN), ("output", nft_rules.LOCAL_OUT)):
            messages += [
                nft_rules.base_chain(_TABLE, name, kind="filter", hook=hook, priority=_PRIORITY),
                nft_rules.rule(_TABLE, name, [*of_tunnels, *nft_rules.drop()]),
            ]
    with Nft(node) as socket:
        socket.transact(messages)


def remedy(exc: NftError) -> str:
    """What to do about it, to be told behind it; empty: nothing that we know of."""
    return "; the kernel needs nf_tables (modprobe it)" if exc.errno in _ABSENT else ""
