"""Prefixes in use: what the cluster and the user say is hard, what nodes merely see is soft."""

from typing import Any

import structlog

from schemas import intent, state, values
from schemas.subjects import PrefixKey, SeenKey
from services.ipam.core.state import Use

log = structlog.get_logger()


def uses_of(key: PrefixKey | SeenKey, message: Any) -> list[Use]:
    """What a message says is in use; a tombstone: nothing. What is no prefix costs the others nothing."""
    match message:
        case intent.PrefixesInUse():
            used = [(each.prefix, each.used_by) for each in message.prefixes]
        case state.SeenPrefixes():
            used = [(prefix, f"seen on node {message.node}") for prefix in message.prefixes]
        case _:
            used = []
    uses = []
    for prefix, by in used:
        try:
            uses.append(Use(values.parse_prefix_loosely(prefix), by))
        except ValueError as exc:
            log.warning("prefix in use is no prefix", subject=key.subject, reason=str(exc))
    return uses
