"""Wording: what people read fits where it is written, and its end, where the remedy stands, stays readable."""

from collections.abc import Sequence

_ELLIPSIS = " … "


def shorten(text: str, most_bytes: int) -> str:
    """At most so many bytes of UTF-8: what is too much is left out of the middle."""
    written = text.encode()
    if len(written) <= most_bytes:
        return text
    room = most_bytes - len(_ELLIPSIS.encode())
    tail = room // 2
    head = written[: room - tail].decode(errors="ignore")
    return head + _ELLIPSIS + written[len(written) - tail :].decode(errors="ignore")


def listed(parts: Sequence[str], most_bytes: int) -> str:
    """All of them, or those that fit and how many do not."""
    whole = "; ".join(parts)
    if len(whole.encode()) <= most_bytes:
        return whole
    room = most_bytes - len(f"; and {len(parts)} more")
    each = room // 2  # two at least are told
    told: list[str] = []
    for part in parts:
        short = shorten(part, each)
        room -= len(short.encode()) + (2 if told else 0)
        if room < 0:
            break
        told.append(short)
    left = len(parts) - len(told)
    return "; ".join([*told, f"and {left} more"] if left else told)
