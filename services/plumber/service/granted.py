"""What is granted to this node's Pods, from the bus as far as it is known, else from what was applied."""

from collections.abc import Collection, Iterator, Mapping
from itertools import chain

from schemas.grant import Connection
from schemas.intent import PodRef
from schemas.subjects import ConnectionKey
from services._runtime.mirror import Mirror
from services.plumber.model import Applied
from services.plumber.service.past import Past


class Granted:
    """Decides nothing about networks; reads all three at each question."""

    def __init__(
        self,
        node: str,
        *,
        grants: Mirror,
        held: Mapping[ConnectionKey, Applied],
        past: Past,
    ) -> None:
        self._node = node
        self._grants = grants
        self._held = held
        self._past = past

    def connections(self) -> set[ConnectionKey]:
        """Everything that is granted or stands."""
        granted = {key for key in self._grants.items if isinstance(key, ConnectionKey)}
        return granted | self._held.keys()

    def desired(self, key: ConnectionKey) -> Connection | None:
        """What is granted now; what was applied, as long as nobody who may has said otherwise."""
        granted = self._grants.items.get(key)
        if isinstance(granted, Connection):
            return granted
        held = self._held.get(key)
        if held is None or key in self._past.released or self._grants.complete(key):
            return None
        return held.grant

    def pods(self) -> Iterator[PodRef]:
        """Those of this node that anything is granted to."""
        for grant in self._grants.items.values():
            if isinstance(grant, Connection):
                yield from (e.pod for e in (grant.client, grant.server) if e.is_on(self._node))

    def of_pods(self, uids: Collection[str]) -> set[ConnectionKey]:
        """Those that one of these Pods has, or had before."""
        applied = ((key, held.grant) for key, held in self._held.items())
        return {
            key
            for key, grant in chain(self._grants.items.items(), applied)
            if isinstance(grant, Connection)
            and (grant.client.pod.uid in uids or grant.server.pod.uid in uids)
        }

    def uids(self, key: ConnectionKey) -> set[str]:
        """Of both Pods, and of those that had it before."""
        grants = [self._grants.items.get(key)]
        if (held := self._held.get(key)) is not None:
            grants.append(held.grant)
        return {
            uid
            for grant in grants
            if isinstance(grant, Connection)
            for uid in (grant.client.pod.uid, grant.server.pod.uid)
        }
