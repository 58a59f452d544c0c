"""What `nsm explain` says of a Pod: a stage after the other, from annotation to kernel. Values only."""

from typing import Any, Literal

import msgspec

from cli.status.survey import Told
from schemas.subjects import Key
from services.watcher.model import Namespace, NetworkServiceEndpoint, Pod

State = Literal["ok", "wrong", "waits", "none", "unknown"]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage. `problem` and `remedy` are told where it is wrong or waits."""

    name: str
    state: State
    lines: tuple[str, ...]
    problem: str = ""
    remedy: str = ""

    @property
    def is_well(self) -> bool:
        return self.state not in ("wrong", "waits")

    def wrong(self, problem: str, remedy: str) -> "Stage":
        """What it says, and what is wrong with it."""
        return msgspec.structs.replace(self, state="wrong", problem=problem, remedy=remedy)

    def waits(self, problem: str, remedy: str) -> "Stage":
        """What it says, and what it waits for."""
        return msgspec.structs.replace(self, state="waits", problem=problem, remedy=remedy)


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One network service that the Pod asks for, or has."""

    interface: str
    network_service: str
    stages: tuple[Stage, ...]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """All of a Pod. `first` is where it goes wrong first, in words; empty: nowhere."""

    pod: str
    node: str
    uid: str
    well: bool
    first: str
    remedy: str
    asked: Stage  # as a whole
    items: tuple[Item, ...]
    serves: Stage  # what it is as an endpoint Pod
    told: Stage


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found. What was not to be had is None, and `notes` say why."""

    namespace: str
    name: str
    told: dict[Key, Told]
    pod: Pod | None = None  # as the API server has it
    home: Namespace | None = None  # its Namespace
    endpoints: tuple[
        NetworkServiceEndpoint, ...
    ] = ()  # of its namespace, and of what nobody offers
    plumbers: tuple[Any, ...] = ()  # their answers about it
    dns: Any | None = None  # answer of its node's dns service
    api_note: str = ""  # why `pod` is not known; empty with None: it is not there
    is_api_away: bool = False  # and that is the API server's fault
    plumber_note: str = ""
    dns_note: str = ""
    dns_unheard: str = ""  # the node whose dns service ought to answer us, and does not
    dns_nodes: frozenset[str] | None = None  # where a dns service follows the bus
    malformed: tuple[str, ...] = ()
