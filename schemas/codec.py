"""JSON to messages and back. What is not a message is `Malformed`, with the subject and the reason.

A subject without a body, or with a tombstone, says that the thing is gone: a fast notice that removes
itself after an hour. Readers check that a body's key equals its subject.
"""

from typing import Any

import msgspec

from schemas import grant, intent, live, state, subjects

TOMBSTONE_TTL_SECONDS = 3600

Message = (
    intent.Request
    | intent.Endpoint
    | intent.NetworkService
    | intent.PrefixesInUse
    | intent.Leader
    | grant.Connection
    | grant.Refusal
    | grant.Pool
    | grant.ClusterPrefixes
    | state.Status
    | state.NodeFacts
    | state.SeenPrefixes
    | state.Resolver
    | live.Lease
    | live.Alive
)

MESSAGES: dict[type[subjects.Key], type[Message]] = {
    subjects.RequestKey: intent.Request,
    subjects.EndpointKey: intent.Endpoint,
    subjects.NetworkServiceKey: intent.NetworkService,
    subjects.PrefixKey: intent.PrefixesInUse,
    subjects.LeaderKey: intent.Leader,
    subjects.ConnectionKey: grant.Connection,
    subjects.RefusalKey: grant.Refusal,
    subjects.PoolKey: grant.Pool,
    subjects.ClusterKey: grant.ClusterPrefixes,
    subjects.StatusKey: state.Status,
    subjects.NodeKey: state.NodeFacts,
    subjects.SeenKey: state.SeenPrefixes,
    subjects.ResolverKey: state.Resolver,
    subjects.LeaseKey: live.Lease,
    subjects.AliveKey: live.Alive,
}


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """The thing of this subject is gone. Grants and statuses say whose it was and what it held."""

    released: str = ""  # uid of the Pod that held it
    revision: int = 0
    endpoint: str = (
        ""  # `<namespace>/<name>` of the endpoint object whose pool the addresses return to
    )
    addresses: tuple[str, ...] = ()  # the client's
    peer_addresses: tuple[str, ...] = ()  # the endpoint Pod's, families in the same order
    vni: int = 0
    node: str = ""  # the client's, where it is not that of the subject
    held: tuple[grant.Former, ...] = ()  # what the node may still have of before
    at: str = ""  # RFC 3339


class Malformed(ValueError):
    """A message that cannot be understood: the sender's fault."""

    def __init__(self, subject: str, reason: str, data: bytes = b"") -> None:
        excerpt = data[:120].decode(errors="replace")
        super().__init__(f"{subject}: {reason}" + (f" in {excerpt!r}" if excerpt else ""))
        self.subject = subject
        self.reason = reason


def encode(message: msgspec.Struct) -> bytes:
    """A message as JSON, keys in a fixed order: equal messages have equal bytes."""
    return msgspec.json.encode(message, order="deterministic")


def decode(subject: str, data: bytes) -> tuple[Any, Any]:
    """(key, message) of what a subject holds; the message is a Tombstone if the thing is gone.

    Raises Malformed.
    """
    try:
        key = subjects.parse(subject)
    except subjects.BadSubject as exc:
        raise Malformed(subject, str(exc), data) from exc
    if not data:
        return key, Tombstone()
    try:
        if b'"released"' in data:
            fields = msgspec.json.decode(data)
            if isinstance(fields, dict) and "released" in fields:
                return key, msgspec.convert(fields, Tombstone)
        message = msgspec.json.decode(data, type=MESSAGES[type(key)])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Malformed(subject, str(exc), data) from exc
    if message.key != key:
        raise Malformed(subject, f"the body is about {message.key}", data)
    return key, message
