"""Whose word counts when a key is absent: the writer that says `complete` about this incarnation of the stream.

ipam answers for grants, the watcher for intent, a node for its own statuses. Leader and node messages answer
for themselves never: who is silent is not gone. For nodes that ipam names as silent nobody answers.
"""

from schemas.intent import Leader
from schemas.state import NodeFacts
from schemas.subjects import Key, LeaderKey, NodeKey, SeenKey, StatusKey
from services._runtime import streams

Authority = Leader | NodeFacts

_AUTHORITIES = tuple(kind.all().removesuffix(">") for kind in (LeaderKey, NodeKey))


def authority_of(key: Key) -> LeaderKey | NodeKey | None:
    """The key of the message that says whether this key's absence counts. None: it never does."""
    if isinstance(key, (LeaderKey, NodeKey)):
        return None
    if isinstance(key, (StatusKey, SeenKey)):
        return NodeKey(key.node)
    service = streams.LEADERS.get(streams.stream_of(key))
    return None if service is None else LeaderKey(service)


def leaves_open(message: Authority, key: Key) -> bool:
    """Whether a complete authority says that the absence of this very key does not count yet."""
    return isinstance(message, Leader) and getattr(key, "node", "") in (message.silent or ())


def is_authority(key: Key) -> bool:
    return isinstance(key, (LeaderKey, NodeKey))


def authority_filter(subject_filter: str) -> bool:
    """Whether a filter selects authorities alone: it is followed before the others."""
    return subject_filter.startswith(_AUTHORITIES)


def incarnation_said(message: Authority, stream: str) -> str:
    """The incarnation of `stream` that an authority speaks of."""
    if isinstance(message, Leader):
        return message.incarnations.get(stream, "")
    return message.incarnation
