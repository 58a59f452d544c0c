"""Decides, on plain values, what the kernel shall look like and how to get there.

`judge` turns a grant into a wiring or into reasons (`wirings`, with `lookups` for tables and rules); `plan`
compares wirings with what stands and lists operations (`planning`); `status` says what came of it (`telling`);
`wording` has the words for what people read.
"""

from services.plumber.core import wording
from services.plumber.core.planning import plan, same_links
from services.plumber.core.telling import status, unseen
from services.plumber.core.wirings import CLUSTER_UNKNOWN, TUNNEL, VETH, judge, tag, wiring

__all__ = [
    "CLUSTER_UNKNOWN",
    "TUNNEL",
    "VETH",
    "judge",
    "plan",
    "same_links",
    "status",
    "tag",
    "unseen",
    "wiring",
    "wording",
]
