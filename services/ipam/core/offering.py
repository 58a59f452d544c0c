"""Who offers a network service: groups of endpoint Pods that labels select, each kept in the order of choice.

Nothing here is sorted or walked over for a decision: a grant, a release and a changed endpoint Pod move one entry.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Mapping
from heapq import heappop, heappush
from typing import NamedTuple

from schemas import intent
from schemas.subjects import EndpointKey

MOST_SELECTIONS = 1_000  # remembered per network service

Name = tuple[str, str]  # of the endpoint object and of its Pod
Load = Callable[[EndpointKey], int]


class Entry(NamedTuple):
    """An endpoint Pod in the order of choice: the least loaded first, then by name."""

    load: int
    object: str
    pod: str


class Order:
    """Entries from the first to the last; all those of an object can be passed over at once."""

    __slots__ = ("_firsts", "_of")

    def __init__(self) -> None:
        self._of: dict[str, list[Entry]] = {}
        self._firsts: list[Entry] = []  # of every object

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, entry: Entry) -> None:
        own = self._of.setdefault(entry.object, [])
        first = own[0] if own else None
        insort(own, entry)
        self._lead(first, own[0])

    def remove(self, entry: Entry) -> None:
        own = self._of[entry.object]
        first = own[0]
        del own[bisect_left(own, entry)]
        self._lead(first, own[0] if own else None)
        if not own:
            del self._of[entry.object]

    def best_first(self, passed: Collection[str]) -> Iterator[Entry]:
        """`passed`: objects to pass over; more may be added meanwhile."""
        opened: list[tuple[Entry, int]] = []
        at = 0
        while opened or at < len(self._firsts):
            if opened and (at == len(self._firsts) or opened[0][0] < self._firsts[at]):
                entry, place = heappop(opened)
            else:
                entry, place = self._firsts[at], 0
                at += 1
            if entry.object not in passed:
                yield entry
            own = self._of[entry.object]
            if entry.object not in passed and place + 1 < len(own):
                heappush(opened, (own[place + 1], place + 1))

    def _lead(self, before: Entry | None, after: Entry | None) -> None:
        if before == after:
            return
        if before is not None:
            del self._firsts[bisect_left(self._firsts, before)]
        if after is not None:
            insort(self._firsts, after)


class Group:
    """Endpoint Pods that one route of a rule, or the annotation's labels, select.

    Those that may get new connections are in the order of choice, the others, and those that are leaving, by name.
    """

    def __init__(self, selector: Mapping[str, str], weight: int = 1) -> None:
        self.weight = weight
        self.load = 0  # of all members
        self.members: dict[EndpointKey, Entry] = {}
        self.open = Order()
        self.on_node: dict[str, Order] = {}
        self.closed: list[Name] = []
        self.leaving: list[Name] = []  # open, but not for long
        self._selector = dict(selector)
        self._open_on: dict[EndpointKey, str] = {}

    def put(self, key: EndpointKey, endpoint: intent.Endpoint | None, load: int) -> None:
        """An endpoint Pod as it is now; it is a member if the labels say so."""
        self._leave(key)
        if endpoint is None or not contains(endpoint.labels, self._selector):
            return
        entry = self.members[key] = Entry(load, key.endpoint, key.pod)
        self.load += load
        if not is_open(endpoint) or endpoint.leaving:
            names = self.leaving if is_open(endpoint) else self.closed
            insort(names, (key.endpoint, key.pod))
            return
        node = self._open_on[key] = endpoint.pod.node
        self.open.add(entry)
        self.on_node.setdefault(node, Order()).add(entry)

    def count(self, key: EndpointKey, load: int) -> None:
        """A member has so many connections now."""
        before = self.members.get(key)
        if before is None:
            return
        entry = self.members[key] = before._replace(load=load)
        self.load += load - before.load
        node = self._open_on.get(key)
        if node is not None:
            for order in (self.open, self.on_node[node]):
                order.remove(before)
                order.add(entry)

    def _leave(self, key: EndpointKey) -> None:
        entry = self.members.pop(key, None)
        if entry is None:
            return
        self.load -= entry.load
        node = self._open_on.pop(key, None)
        if node is None:
            _drop(self.closed, (key.endpoint, key.pod))
            _drop(self.leaving, (key.endpoint, key.pod))
            return
        self.open.remove(entry)
        self.on_node[node].remove(entry)
        if not self.on_node[node]:
            del self.on_node[node]


class Offers:
    """Endpoint Pods of one network service, and what was selected of them."""

    def __init__(self, namespace: str, load: Load) -> None:
        self.namespace = namespace
        self.endpoints: dict[EndpointKey, intent.Endpoint] = {}
        self.names: list[Name] = []
        self._load = load
        self._selections: dict[object, tuple[Group, ...]] = {}

    def put(self, key: EndpointKey, endpoint: intent.Endpoint | None) -> None:
        """Add, replace or (None) remove an endpoint Pod."""
        name = (key.endpoint, key.pod)
        if self.endpoints.pop(key, None) is not None:
            del self.names[bisect_left(self.names, name)]
        if endpoint is not None:
            self.endpoints[key] = endpoint
            insort(self.names, name)
        for group in self._groups():
            group.put(key, endpoint, self._load(key))

    def count(self, key: EndpointKey, load: int) -> None:
        for group in self._groups():
            group.count(key, load)

    def select(
        self, name: object, selectors: Collection[tuple[Mapping[str, str], int]]
    ) -> tuple[Group, ...]:
        """A group for each selector with its weight; under `name` they are kept up to date."""
        if name not in self._selections:
            if len(self._selections) >= MOST_SELECTIONS:  # labels are the clients' to invent
                self._selections.clear()
            groups = tuple(Group(*each) for each in selectors)
            for key, endpoint in self.endpoints.items():
                for group in groups:
                    group.put(key, endpoint, self._load(key))
            self._selections[name] = groups
        return self._selections[name]

    def of_object(self, name: str) -> Iterator[EndpointKey]:
        """All Pods of an endpoint object, by name."""
        for at in range(bisect_left(self.names, (name, "")), len(self.names)):
            if self.names[at][0] != name:
                return
            yield EndpointKey(self.namespace, *self.names[at])

    def forget_selections(self) -> None:
        """The rules are others."""
        self._selections.clear()

    def _groups(self) -> Iterator[Group]:
        for groups in self._selections.values():
            yield from groups


def _drop(names: list[Name], name: Name) -> None:
    at = bisect_left(names, name)
    if names[at : at + 1] == [name]:
        del names[at]


def is_open(endpoint: intent.Endpoint) -> bool:
    """Whether it may get new connections."""
    return endpoint.ready and endpoint.pod.node_ready


def contains(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())
