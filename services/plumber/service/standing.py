"""What stands of each connection, as it was last read or made, and which notice of the kernel contradicts it.

Our own changes come back as notices, too. They say what is known, so they are no reason to look; nor is what
somebody adds.
"""

from collections.abc import Callable, Iterable, Iterator

from schemas.subjects import ConnectionKey
from services._node.monitor import DELLINK, DELNSID, DELROUTE, DELRULE, NEWLINK, Change
from services.plumber.adapters.tables import IN_TABLES, PROTOCOL
from services.plumber.model import Found, Pair, parse_alias

_Interface = tuple[int, int]  # cookie of its network, index
_REMEMBERED = 1000  # deletions of interfaces that nobody was known to own


class Standing:
    """`pairs` by connection; only what is as it was granted.

    `look_at` is told of what was deleted before it was noted: we hear of it faster than of our own work's end.
    """

    def __init__(self, look_at: Callable[[ConnectionKey], None]) -> None:
        self._look_at = look_at
        self._deleted: dict[_Interface, None] = {}
        self.pairs: dict[ConnectionKey, Pair] = {}
        self._owners: dict[_Interface, tuple[ConnectionKey, Found]] = {}
        self._looking_up: dict[int, set[ConnectionKey]] = {}  # by cookie: who has rules there

    def note(self, key: ConnectionKey, pair: Pair) -> None:
        """It stands like this now."""
        self.forget(key)
        self.pairs[key] = pair
        for found in pair.ends:
            self._owners[_interface(found)] = key, found
            if _interface(found) in self._deleted:
                self._look_at(key)
            if found.lookups:
                self._looking_up.setdefault(found.place.cookie, set()).add(key)

    def forget(self, key: ConnectionKey) -> None:
        """It is being removed, or stands no more: its notices are no news."""
        pair = self.pairs.pop(key, None)
        if pair is None:
            return
        for found in pair.ends:
            self._owners.pop(_interface(found), None)
            keys = self._looking_up.get(found.place.cookie, set())
            keys.discard(key)
            if not keys:
                self._looking_up.pop(found.place.cookie, None)

    def contradicted(self, changes: Iterable[Change]) -> set[ConnectionKey]:
        """The connections that are no more as they were."""
        return {key for change in changes for key in self._concerned(change)}

    def _concerned(self, change: Change) -> Iterator[ConnectionKey]:
        if change.kind == DELNSID:
            return  # that is told by the network's end
        if change.kind in {DELROUTE, DELRULE} and change.protocol not in {PROTOCOL, IN_TABLES}:
            return
        if change.ifindex == 0:  # a rule, or a route that leads nowhere
            yield from self._looking_up.get(change.cookie, ())
            return
        owner = self._owners.get((change.cookie, change.ifindex))
        if owner is None and change.kind == DELLINK:
            self._remember(change)
        if owner is not None and not (change.kind == NEWLINK and _is_known(change, owner[1])):
            yield owner[0]

    def _remember(self, change: Change) -> None:
        self._deleted[change.cookie, change.ifindex] = None
        if len(self._deleted) > _REMEMBERED:
            del self._deleted[next(iter(self._deleted))]


def _interface(found: Found) -> _Interface:
    return found.place.cookie, found.index


def _is_known(change: Change, found: Found) -> bool:
    return change.up and (
        (change.interface, change.mac, change.mtu) == (found.interface, found.mac, found.mtu)
        and parse_alias(change.alias) is not None
    )
