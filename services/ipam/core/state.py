"""What ipam knows: a cache of the bus. Who has what is in the ledger; here is what the cluster is."""

from collections.abc import Collection, Iterable

from schemas import intent
from schemas.grant import Pool as Figures
from schemas.state import NodeFacts
from schemas.subjects import EndpointKey, NetworkServiceKey, RequestKey
from services.ipam.core import blocks
from services.ipam.core.exclusions import Change, Use
from services.ipam.core.holdings import (
    Holding,
    ObjectKey,
    addresses_of,
    endpoint_key,
    object_key,
    request_key,
)
from services.ipam.core.ledger import Ledger
from services.ipam.core.pool import Pool

__all__ = [
    "Holding",
    "State",
    "Use",
    "addresses_of",
    "endpoint_key",
    "object_key",
    "request_key",
]


class State(Ledger):
    """Everything ipam knows. `supernets`: where prefixes are carved for endpoints that name none."""

    # --- what is known -------------------------------------------------------------------------------

    def put_endpoint(self, key: EndpointKey, endpoint: intent.Endpoint | None) -> set[str]:
        """Add, replace or (None) remove an endpoint Pod; returns the network services it touches."""
        self.changed.add((key.namespace, key.endpoint))
        return self.registry.put_endpoint(key, endpoint)

    def put_network_service(
        self, key: NetworkServiceKey, network_service: intent.NetworkService | None
    ) -> None:
        """Add, replace or (None) remove a NetworkService."""
        self.registry.put_network_service(key, network_service)

    def put_excluded(self, hard: Iterable[Use], soft: Iterable[Use] = ()) -> None:
        """Replace every prefix in use: `hard` of cluster, nodes, services, user; `soft` only seen on nodes."""
        self.put_uses("", hard, is_hard=True)
        self.put_uses("", soft, is_hard=False)

    def put_uses(self, source: str, uses: Iterable[Use], *, is_hard: bool) -> None:
        """Replace what one source (a subject, say) tells of prefixes in use; no uses: it is gone.

        For those who know which source changed: it costs what changed, and what that overlaps.
        """
        self._exclude(self.exclusions.put(source, uses, is_hard=is_hard), is_hard=is_hard)

    def put_facts(self, facts: NodeFacts) -> list[RequestKey]:
        """What a node says of itself. Returns the grants that may have to follow: settle them again."""
        before = self.facts.get(facts.node)
        self.facts[facts.node] = facts
        if before is not None and _tunnel_facts(before) == _tunnel_facts(facts):
            return []
        return _ordered(self._on_node.get(facts.node, ()))

    def drop_facts(self, node: str) -> None:
        """Nothing is known of a node any more; what stands there keeps its mechanism and MTU."""
        self.facts.pop(node, None)

    def put_silent(self, nodes: Collection[str]) -> bool:
        """Nodes that Kubernetes knows and that have not told what they have (after a wiped bus); empty: all told.

        An endpoint object with an endpoint Pod on one of them grants no new addresses (`NodeSilent`).
        Whether that freed anything: what others told of them and they did not, once they told.
        """
        silent = frozenset(nodes)
        freed = [
            self._let_go(key, node, lambda held, at=revision: held.revision == at)  # type: ignore[misc]
            for node in self.silent - silent
            for key, revision in self._presumed.pop(node, ())
        ]
        self.silent = silent
        return any(freed)

    def kept_for(self, nodes: Collection[str]) -> list[RequestKey]:
        """Grants that stood as they were for the silence of these nodes: settle them again once all were heard."""
        found: set[RequestKey] = set()
        for object_, owners in self._of_object.items():
            served_on = self.registry.nodes_of(object_).keys()
            if not served_on.isdisjoint(nodes) and served_on.isdisjoint(self.silent):
                found.update(owners.keys() & self.grants.keys())
        return _ordered(found)

    def put_node(self, node: str, *, exists: bool) -> bool:
        """Kubernetes knows a node, or not any more: then nothing stands there. Whether that freed anything."""
        if exists:
            self.nodes.add(node)
            self._lost.discard(node)
            return False
        self.nodes.discard(node)
        self._lost.add(node)
        freed = [self._let_go(key, node) for key in list(self._held)]
        return any(freed)

    def remember_pool(self, pool: Figures) -> None:
        """A pool message read from the bus: the memory of automatic prefixes. Before requests are settled.

        Raises ValueError if it names what is no prefix.
        """
        if pool.automatic:
            texts = [text for family in pool.families for text in family.prefixes]
            object_ = (pool.namespace, pool.endpoint)
            self.automatic.remember(object_, [blocks.read_block(text) for text in texts])
            self.changed.add(object_)

    # --- pools ---------------------------------------------------------------------------------------

    @property
    def changed(self) -> set[ObjectKey]:
        """Pools whose figures may differ from what was told; whoever told them puts an empty set here."""
        return self.pools.changed

    @changed.setter
    def changed(self, changed: set[ObjectKey]) -> None:
        self.pools.changed = changed

    def pool(self, endpoint: intent.Endpoint) -> Pool:
        """The pool of an endpoint's object, made anew when its spec changed. Raises ValueError."""
        return self.pools.of(endpoint)

    def figures(self, object_: ObjectKey) -> Figures | None:
        """What a pool holds; None if its endpoint is gone and all is given back, or if it has a bad spec."""
        return self.pools.figures(object_, is_idle=object_ not in self._of_object)

    def is_idle(self, object_: ObjectKey) -> bool:
        """Whether an endpoint is gone and nobody has anything of it any more."""
        return object_ not in self._of_object and not self.registry.objects.get(object_)

    # --- late exclusions -----------------------------------------------------------------------------

    def affected(self) -> list[RequestKey]:
        """Granted connections whose addresses or routes overlap a hard exclusion of now, in a steady order."""
        for object_, owners in self._of_object.items():
            if self.pools.get(object_) is None:
                self._check(owners)
        return _ordered(self._affected)

    def is_affected(self, key: RequestKey) -> bool:
        return key in self._affected

    def uncovered(self) -> list[RequestKey]:
        """Grants that say that a prefix in use covers them, and none does any more."""
        return _ordered(self._covered - self._affected)

    def cluster_prefixes(self) -> tuple[str, ...]:
        """All hard exclusions, merged to the fewest prefixes, IPv4 first."""
        if self._merged is None:
            self._merged = self.exclusions.merged()
        return self._merged

    def _exclude(self, change: Change, *, is_hard: bool) -> None:
        touched = self.pools.follow(change)
        if not is_hard:
            return
        if change.added or change.removed:
            self._merged = None
        for block in change.added:
            for route, object_, _ in self._routed.overlapping(block):
                touched |= self._of_object.get(object_, {}).keys() if route[2] else set()
        self._check(touched | (self._affected if change.removed else set()))


def _tunnel_facts(facts: NodeFacts) -> tuple[object, ...]:
    return facts.mechanisms, facts.underlay_address, facts.mtu


def _ordered(keys: Iterable[RequestKey]) -> list[RequestKey]:
    return sorted(keys, key=lambda key: (key.namespace, key.pod, key.interface))
