"""News: what changed in what a Pod shows, as Events that people should hear of."""

from collections.abc import Collection, Iterator

import msgspec

from schemas.reasons import PREFIX_COLLISION
from services.watcher.core.report import CONNECTED, UPDATING, Report, Showing
from services.watcher.model import Shown

DISCONNECTED = "Disconnected"
READDRESSED = "Readdressed"
NORMAL = "Normal"
WARNING = "Warning"


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """An Event to be written."""

    type: str
    reason: str
    message: str


def announcements(
    before: Showing, after: Report, *, but: Collection[str] = ()
) -> Iterator[Announcement]:
    """What is new in a report compared with what was shown or announced last; nothing of the interfaces `but`."""
    was = {each.interface: each for each in before.items}
    for item, message in zip(after.items, after.messages, strict=True):
        if item.interface in but:
            continue
        yield from _news(was.pop(item.interface, None), item, message)
    for gone in was.values():
        if _stands(gone):
            yield _disconnected(gone, "no longer asked for")
    for covered in after.covered:
        # A predecessor's word is known by the message alone.
        if covered not in before.covered and covered not in before.message:
            yield Announcement(type=WARNING, reason=PREFIX_COLLISION, message=covered)
    if after.reason in _OF_THE_POD and (before.reason, before.message) != (
        after.reason,
        after.message,
    ):
        yield Announcement(type=WARNING, reason=after.reason, message=after.message)


def _news(was: Shown | None, item: Shown, message: str) -> Iterator[Announcement]:
    if item.state == "ready":
        if was is not None and was.ips and was.ips != item.ips and message:
            yield _readdressed(item, was.ips, message)
        elif was != item:
            yield Announcement(
                type=NORMAL,
                reason=CONNECTED,
                message=f"{item.interface} is connected to {item.name} with "
                f"{', '.join(item.ips) or 'no address'} by endpoint Pod {item.endpoint}",
            )
        return
    lost = was is not None and _stands(was) and not _stands(item)
    if item.state == "waiting":
        if was is not None and lost and item.reason != UPDATING:
            yield _disconnected(was, message)
    elif was is None or (was.state, was.reason) != (item.state, item.reason):
        # That it is a loss and why is one piece of news.
        which = f"{item.interface} ({item.name})"
        text = f"{which} is disconnected: {message}" if lost else f"{which}: {message}"
        yield Announcement(type=WARNING, reason=item.reason, message=text)


def _readdressed(item: Shown, before: tuple[str, ...], why: str) -> Announcement:
    return Announcement(
        type=WARNING,  # what is bound to the old addresses breaks
        reason=READDRESSED,
        message=f"{item.interface} ({item.name}) has {', '.join(item.ips)} now instead of {', '.join(before)}: {why}",
    )


def _stands(item: Shown) -> bool:
    """Whether its link is there, with or without its DNS: the other end is shown only then."""
    return bool(item.endpoint)


def _disconnected(item: Shown, why: str) -> Announcement:
    return Announcement(
        type=NORMAL,
        reason=DISCONNECTED,
        message=f"{item.interface} is disconnected from {item.name}: {why}",
    )


# Reasons of the whole Pod: there are no items to tell them of.
_OF_THE_POD = frozenset({"MalformedAnnotation", "HostNetwork"})
