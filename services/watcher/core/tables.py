"""Tables that hold nothing empty: what is there says that there is something, and what is gone costs no memory."""

from typing import Any, TypeVar

V = TypeVar("V")


def keep(table: dict[Any, V], key: Any, value: V | None) -> None:
    """Put a value; None: take out what is there."""
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def discard(table: dict[Any, set[V]], key: Any, member: V) -> None:
    """Take a member out of a set that is there, and the set with its last one."""
    members = table[key]
    members.discard(member)
    if not members:
        del table[key]
