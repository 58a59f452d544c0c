"""The addresses of one NetworkServiceEndpoint object: shared by its replicas, each handed out once.

Two addressing modes. `shared`: the first usable address is the endpoint's on all its links, clients get
the following ones. `pointToPoint`: every connection takes the two lowest free addresses, the lower one is
the endpoint's; network and broadcast addresses are used as well.
"""

from collections.abc import Iterable, Mapping

from schemas import intent
from schemas.subjects import RequestKey
from services.ipam.core import blocks
from services.ipam.core.blocks import Host
from services.ipam.core.exclusions import Exclusions
from services.ipam.core.spaces import Space


class Pool:
    """Free and used addresses of an endpoint. Raises ValueError for a spec with what is no prefix."""

    def __init__(self, spec: intent.IpamSpec, exclusions: Exclusions) -> None:
        self.spec = spec
        self.is_shared = spec.addressing == "shared"
        self.own = [blocks.read_block(text) for text in spec.prefixes]
        excludes = [blocks.read_block_loosely(text) for text in spec.exclude_prefixes]
        self.spaces = {
            family: Space(
                family,
                [block for block in self.own if block[0] == family],
                [block for block in excludes if block[0] == family],
                exclusions,
                is_shared=self.is_shared,
            )
            for family in dict.fromkeys(block[0] for block in self.own)
        }

    def put(self, owner: RequestKey, before: Iterable[Host], after: Mapping[Host, int]) -> bool:
        """`owner` has these now and had those before. Whether that freed any."""
        freed = [
            space.put(
                owner,
                [number for family, number in before if family == space.family],
                {host[1]: flags for host, flags in after.items() if host[0] == space.family},
            )
            for space in self.spaces.values()
        ]
        return any(freed)
