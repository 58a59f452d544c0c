"""Who lives right now: stream NSM_LIVE, every message with a time to live, never logged."""

import msgspec

from schemas.subjects import AliveKey, LeaseKey


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """Something that who runs the mesh has to mend; `reason` is stable CamelCase."""

    reason: str
    message: str


class LeaderReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a leader sees and nobody else on the bus does, in words for people."""

    troubles: tuple[str, ...] = ()  # it is not told everything: an operator should act
    mistakes: tuple[Mistake, ...] = ()  # an operator should correct them
    notes: tuple[str, ...] = ()  # good to know


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The right to lead a service until it expires."""

    service: str
    holder: str
    word: LeaderReport = LeaderReport()

    @property
    def key(self) -> LeaseKey:
        return LeaseKey(self.service)


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """A node's heartbeat."""

    node: str

    @property
    def key(self) -> AliveKey:
        return AliveKey(self.node)
