"""Every subject of the bus, built and parsed here and nowhere else.

A subject holds the current truth about one thing. Its key is a frozen struct; `key.subject` builds the
subject, `parse` reads it back. Names map `.` to `_`, which no Kubernetes name contains; interface names
may contain `_` but no `.` and stay as they are. Every token is checked, because the server would accept
and store a wildcard.
"""

import re
from typing import Any, ClassVar, Self

import msgspec

ROOT = "nsm"
LOG_ROOT = "log.nsm"  # the server republishes what it stored under log.<subject>

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,253}")


class BadSubject(ValueError):
    """A subject that no key of ours has, or a name that no subject can carry."""


class Key(msgspec.Struct, frozen=True):
    """What a subject is about. Subclasses name the kind and, by their fields, the tokens that follow."""

    kind: ClassVar[str]

    @property
    def subject(self) -> str:
        tokens = [ROOT, self.kind]
        for field in self.__struct_fields__:
            value: str = getattr(self, field)
            if value == "" and field in _OPTIONAL:
                continue
            tokens.append(_token(field, value))
        return ".".join(tokens)

    @classmethod
    def all(cls, *first: str) -> str:
        """The filter for every subject of this kind, or those whose first fields are `first`."""
        fixed = (_token(f, v) for f, v in zip(cls.__struct_fields__, first, strict=False))
        return ".".join([ROOT, cls.kind, *fixed, ">"])

    @classmethod
    def of_pod(cls, namespace: str, pod: str) -> str:
        """The filter for what this kind says of one Pod, on whatever node; namespace "": in any."""
        known = {"namespace": namespace, "pod": pod}
        fields = cls.__struct_fields__
        until = fields.index("pod") + 1
        tokens = [_token(f, known[f]) if known.get(f) else "*" for f in fields[:until]]
        return ".".join([ROOT, cls.kind, *tokens, *([">"] if len(fields) > until else [])])

    @classmethod
    def from_tokens(cls, tokens: list[str]) -> Self:
        fields = cls.__struct_fields__
        least = len(fields) - sum(f in _OPTIONAL for f in fields)
        if not least <= len(tokens) <= len(fields):
            raise BadSubject(f"{ROOT}.{cls.kind} takes {', '.join(fields)}, got {tokens}")
        names = (_name(f, t) for f, t in zip(fields, tokens, strict=False))
        return cls(*names)


class RequestKey(Key, frozen=True):
    """`nsm.request.<namespace>.<pod>.<interface>`"""

    kind = "request"
    namespace: str
    pod: str
    interface: str


class EndpointKey(Key, frozen=True):
    """`nsm.endpoint.<namespace>.<endpoint>.<pod>`"""

    kind = "endpoint"
    namespace: str
    endpoint: str
    pod: str


class NetworkServiceKey(Key, frozen=True):
    """`nsm.networkservice.<namespace>.<name>`"""

    kind = "networkservice"
    namespace: str
    name: str


class PrefixKey(Key, frozen=True):
    """`nsm.prefix.<source>[.<name>]`"""

    kind = "prefix"
    source: str
    optional_name: str = ""


class LeaderKey(Key, frozen=True):
    """`nsm.leader.<service>.guard`: the guard of that service's stream.

    One token more than needed: the stream has to listen with a wildcard. To a literal subject a server delivers
    the heartbeats of any consumer that names it as its deliver subject, and the stream would store them.
    """

    kind = "leader"
    service: str
    word: str = "guard"


class ConnectionKey(Key, frozen=True):
    """`nsm.connection.<node>.<namespace>.<pod>.<interface>`"""

    kind = "connection"
    node: str
    namespace: str
    pod: str
    interface: str


class RefusalKey(Key, frozen=True):
    """`nsm.refusal.<namespace>.<pod>.<interface>`"""

    kind = "refusal"
    namespace: str
    pod: str
    interface: str


class PoolKey(Key, frozen=True):
    """`nsm.pool.<namespace>.<endpoint>`"""

    kind = "pool"
    namespace: str
    endpoint: str


class ClusterKey(Key, frozen=True):
    """`nsm.cluster.prefixes`. With a word behind it for the same reason as a guard."""

    kind = "cluster"
    word: str = "prefixes"


class StatusKey(Key, frozen=True):
    """`nsm.status.<node>.<namespace>.<pod>.<interface>`: pod and interface are the client's."""

    kind = "status"
    node: str
    namespace: str
    pod: str
    interface: str


class NodeKey(Key, frozen=True):
    """`nsm.node.<node>`"""

    kind = "node"
    node: str


class SeenKey(Key, frozen=True):
    """`nsm.seen.<node>`"""

    kind = "seen"
    node: str


class ResolverKey(Key, frozen=True):
    """`nsm.resolver.<node>.<namespace>.<pod>`"""

    kind = "resolver"
    node: str
    namespace: str
    pod: str


class LeaseKey(Key, frozen=True):
    """`nsm.lease.<service>`"""

    kind = "lease"
    service: str


class AliveKey(Key, frozen=True):
    """`nsm.alive.<node>`"""

    kind = "alive"
    node: str


KEYS: dict[str, type[Key]] = {
    key.kind: key
    for key in (
        RequestKey,
        EndpointKey,
        NetworkServiceKey,
        PrefixKey,
        LeaderKey,
        ConnectionKey,
        RefusalKey,
        PoolKey,
        ClusterKey,
        StatusKey,
        NodeKey,
        SeenKey,
        ResolverKey,
        LeaseKey,
        AliveKey,
    )
}

_OPTIONAL = frozenset({"optional_name"})
_VERBATIM = frozenset({"interface"})


def parse(subject: str) -> Any:
    """The key of a subject, also of its `log.` form. Raises BadSubject."""
    tokens = subject.removeprefix("log.").split(".")
    if len(tokens) < 2 or tokens[0] != ROOT or tokens[1] not in KEYS:
        raise BadSubject(f"{subject!r} is no subject of ours")
    for token in tokens:
        if _TOKEN.fullmatch(token) is None:
            raise BadSubject(f"{subject!r} has a bad token {token!r}")
    return KEYS[tokens[1]].from_tokens(tokens[2:])


def _token(field: str, value: str) -> str:
    if field not in _VERBATIM:
        if "_" in value:
            raise BadSubject(f"{field} {value!r} contains '_', which no Kubernetes name does")
        value = value.replace(".", "_")
    if _TOKEN.fullmatch(value) is None:
        raise BadSubject(f"{field} {value!r} cannot stand in a subject")
    return value


def _name(field: str, token: str) -> str:
    return token if field in _VERBATIM else token.replace("_", ".")
