"""What the resolvers of all Pods of a node have in common."""

from collections.abc import Callable

from services.dns.core.ids import Ids
from services.dns.core.queries import Readings
from services.dns.core.scope import Scopes
from services.dns.core.tally import Tally
from services.dns.core.timers import Timers
from services.dns.model import Limits


class Shared:
    """`on_due` is told when `timers.tick` is to be called; `random_bytes` gives what nobody can guess."""

    def __init__(
        self,
        limits: Limits,
        *,
        on_due: Callable[[float], None],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.limits = limits
        self.readings = Readings()
        self.scopes = Scopes()
        self.tally = Tally()
        self.ids = Ids(random_bytes)
        self.timers = Timers(on_due)
