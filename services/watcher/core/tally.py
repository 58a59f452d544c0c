"""Tally: the endpoint Pods and the connections of each object of ours, kept up to date message by message.

A connection counts for the endpoint and for the network service that it was granted for, once, wherever
its two ends are.
"""

from typing import Literal

import msgspec

from schemas.grant import Connection
from schemas.intent import Endpoint
from schemas.state import Status
from schemas.subjects import ConnectionKey, EndpointKey
from services.watcher.model import NetworkService, NetworkServiceEndpoint, Subject

# silent: its node has said nothing about it
State = Literal["ready", "waiting", "failed", "silent"]


class Counts(msgspec.Struct):
    """What an object has. To be read, not kept: it changes."""

    candidates: set[EndpointKey] = msgspec.field(default_factory=set)  # they may get new clients
    connections: dict[State, set[ConnectionKey]] = msgspec.field(
        default_factory=lambda: {"ready": set(), "waiting": set(), "failed": set(), "silent": set()}
    )

    @property
    def endpoints(self) -> int:
        return len({key.pod for key in self.candidates})

    @property
    def clients(self) -> int:
        return sum(map(len, self.connections.values()))

    @property
    def nothing(self) -> bool:
        return not self.candidates and not any(self.connections.values())


class Tally:
    """`put_*` what the bus holds now; each tells whose counts that changed."""

    def __init__(self) -> None:
        self._counts: dict[Subject, Counts] = {}
        self._offers: dict[EndpointKey, frozenset[Subject]] = {}
        self._connections: dict[ConnectionKey, tuple[frozenset[Subject], State]] = {}

    def of(self, subject: Subject) -> Counts:
        """The counts of an object."""
        return self._counts.get(subject) or Counts()

    def silent(self) -> list[Subject]:
        """Those with connections that a node has said nothing about."""
        return [each for each, counts in self._counts.items() if counts.connections["silent"]]

    def put_offer(self, key: EndpointKey, offer: Endpoint | None) -> frozenset[Subject]:
        """An endpoint Pod as it is published."""
        before = self._offers.pop(key, frozenset())
        after = _offered(key, offer)
        for subject in before - after:
            self._counts[subject].candidates.discard(key)
        for subject in after - before:
            self._counts.setdefault(subject, Counts()).candidates.add(key)
        if after:
            self._offers[key] = after
        self._forget(before - after)
        return before ^ after

    def put_connection(
        self, key: ConnectionKey, granted: Connection | None, status: Status | None
    ) -> frozenset[Subject]:
        """A connection as it is granted, and what the client's node says of it."""
        nobody: tuple[frozenset[Subject], State] = (frozenset(), "silent")
        before, state_before = self._connections.pop(key, nobody)
        after, state = nobody
        if granted is not None and granted.client.is_on(key.node):  # else a copy
            after, state = _used(granted), _state(granted, status)
            self._connections[key] = (after, state)
        if (before, state_before) == (after, state):
            return frozenset()
        for subject in before:
            self._counts[subject].connections[state_before].discard(key)
        for subject in after:
            self._counts.setdefault(subject, Counts()).connections[state].add(key)
        self._forget(before - after)
        return before | after

    def _forget(self, subjects: frozenset[Subject]) -> None:
        for subject in subjects:
            if self._counts[subject].nothing:
                del self._counts[subject]


def _offered(key: EndpointKey, offer: Endpoint | None) -> frozenset[Subject]:
    if offer is None or not (offer.ready and offer.pod.node_ready):
        return frozenset()
    offered: list[Subject] = [
        (NetworkService, (key.namespace, name)) for name in offer.network_services
    ]
    return frozenset([(NetworkServiceEndpoint, (key.namespace, key.endpoint)), *offered])


def _used(granted: Connection) -> frozenset[Subject]:
    return frozenset(
        [
            (NetworkServiceEndpoint, (granted.endpoint_namespace, granted.endpoint)),
            (
                NetworkService,
                (granted.network_service_namespace, granted.network_service),
            ),
        ]
    )


def _state(granted: Connection, status: Status | None) -> State:
    end = status.client if status is not None else None
    if status is None or end is None or end.uid != granted.client.pod.uid:
        return "silent"
    if end.state == "failed":
        # What a node failed to do with an older grant says nothing about this one.
        return "failed" if status.revision >= granted.revision else "waiting"
    stands = end.applied if end.state == "ready" else None
    if stands is None or stands.server.pod.uid != granted.server.pod.uid:
        return "waiting"
    return "ready"
