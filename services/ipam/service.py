"""The shell of ipam: follow, settle what changed, write it down.

Callbacks of the mirrors only note which requests are touched; one loop settles them while we lead. A
standby keeps its mirrors warm and builds its state from them when its turn comes.
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime

import structlog

from schemas import grant, intent, state as node_state, subjects, values
from schemas.codec import Message, Tombstone
from schemas.grant import Connection
from schemas.subjects import Key, RequestKey
from services._runtime.leading import Term, lead
from services._runtime.mirror import Mirror
from services._runtime.run import Runtime
from services._runtime.streams import GRANT, INTENT, STATE
from services.ipam.adapters import Store
from services.ipam.core.settling import abandon, settle
from services.ipam.core.state import Holding, State, Use, request_key
from services.ipam.model import Writes
from services.ipam.settings import Settings

BATCH = 256  # requests settled before their writes are awaited

log = structlog.get_logger()


class Ipam:
    """Grants and refuses while it leads."""

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._runtime = runtime
        self._settings = settings
        bus = runtime.bus
        self._intent = Mirror(bus, INTENT, ["nsm.>"], on_change=self._intent_changed)
        self._grants = Mirror(bus, GRANT, ["nsm.>"], on_change=self._grant_changed)
        self._states = Mirror(bus, STATE, ["nsm.>"], on_change=self._state_changed)
        self._state = State()
        self._touched: dict[RequestKey, None] = {}  # in the order they were touched
        self._by_service: dict[str, set[RequestKey]] = {}
        self._released: dict[subjects.ConnectionKey, Tombstone] = {}
        self._confirmed: dict[subjects.StatusKey, Tombstone] = {}
        self._told: dict[tuple[str, str], grant.Pool] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            for mirror in (self._intent, self._grants, self._states):
                tasks.create_task(mirror.run())
            tasks.create_task(
                lead(
                    self._runtime.bus,
                    "ipam",
                    own=self._grants,
                    decide=self._decide,
                    holder=self._runtime.settings.holder,
                )
            )
