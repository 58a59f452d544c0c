"""Which requests have to be looked at, and in which order: who leaves, who is in a hurry, then as they were touched.

Who leaves goes first because an interface that is only renamed would collide with itself.
"""

import asyncio
from collections.abc import Collection, Iterable

from schemas.subjects import RequestKey


class Agenda:
    """Requests by network service, those that wait, and those that are due."""

    def __init__(self) -> None:
        self.waiting: set[RequestKey] = set()  # wanted, and not granted
        self.wake = asyncio.Event()
        self._leaving: dict[RequestKey, None] = {}
        self._hurried: dict[RequestKey, None] = {}
        self._staying: dict[RequestKey, None] = {}
        self._service_of: dict[RequestKey, str] = {}
        self._by_service: dict[str, set[RequestKey]] = {}
        # Told apart from the requests they stand for: a change of a thousand endpoints, or of a thousand freed
        # addresses, is one change to those who ask for them.
        self._services: dict[str, None] = {}
        self._waiting_too = False

    def __bool__(self) -> bool:
        due = self._leaving or self._hurried or self._staying
        return bool(due or self._services or self._waiting_too)

    def __len__(self) -> int:
        return len(self._leaving) + len(self._hurried) + len(self._staying)

    def want(self, key: RequestKey, network_service: str) -> None:
        """Somebody asks for this network service."""
        self._forget(key)
        self._service_of[key] = network_service
        self._by_service.setdefault(network_service, set()).add(key)
        self.touch([key])

    def unwant(self, key: RequestKey) -> None:
        """Nobody asks any more."""
        self._forget(key)
        self._hurried.pop(key, None)
        self._staying.pop(key, None)
        self.waiting.discard(key)
        self.touch([key])

    def touch(self, keys: Iterable[RequestKey]) -> None:
        for key in keys:
            due = self._staying if key in self._service_of else self._leaving
            due[key] = None
        self.wake.set()

    def hurry(self, keys: Iterable[RequestKey]) -> None:
        """These before all others that stay."""
        for key in keys:
            self._staying.pop(key, None)
            due = self._hurried if key in self._service_of else self._leaving
            due[key] = None
        self.wake.set()

    def touch_services(self, names: Iterable[str]) -> None:
        """Everybody who asks for one of these network services."""
        self._services.update(dict.fromkeys(names))
        self.wake.set()

    def touch_waiting(self) -> None:
        """Everybody who waits: there may be room."""
        self._waiting_too = True
        self.wake.set()

    def begin(self, keys: Iterable[RequestKey]) -> None:
        """These are due, in this order, and nothing else."""
        self._leaving.clear()
        self._hurried.clear()
        self._staying.clear()
        self._services.clear()
        self._waiting_too = False
        self.touch(keys)

    def take(self) -> RequestKey | None:
        """What is due next."""
        self._spread()
        due = self._leaving or self._hurried or self._staying
        key = next(iter(due), None)
        if key is not None:
            del due[key]
        return key

    def _spread(self) -> None:
        services, self._services = self._services, {}
        for name in services:
            self._stay(self._by_service.get(name, set()))
        if self._waiting_too:
            self._waiting_too = False
            self._stay(self.waiting)

    def _stay(self, keys: set[RequestKey]) -> None:
        self._staying.update(dict.fromkeys(in_order(keys - self._hurried.keys())))

    def _forget(self, key: RequestKey) -> None:
        self._leaving.pop(key, None)
        name = self._service_of.pop(key, None)
        if name is not None:
            self._by_service[name].discard(key)
            if not self._by_service[name]:
                del self._by_service[name]


def in_order(keys: Collection[RequestKey]) -> list[RequestKey]:
    """Keys in a fixed order, so that two runs over the same bus grant the same."""
    return sorted(keys, key=lambda key: (key.namespace, key.pod, key.interface))
