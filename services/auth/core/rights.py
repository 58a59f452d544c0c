"""What each role may do: exactly what its code does, and nothing by a wildcard where a name is known.

Consumers and inboxes are named after the connection, so the rights name them too: nobody can create, replace
or delete a consumer of somebody else, and nobody hears another's answers. A filter belongs to the name of its
consumer in the subject of the request; the server refuses a body that says something else.
"""

from collections.abc import Iterable, Sequence

from schemas import subjects
from schemas.subjects import (
    AliveKey,
    ClusterKey,
    ConnectionKey,
    EndpointKey,
    LeaderKey,
    LeaseKey,
    NetworkServiceKey,
    NodeKey,
    PoolKey,
    PrefixKey,
    RefusalKey,
    RequestKey,
    ResolverKey,
    SeenKey,
    StatusKey,
)
from services.auth.core import layout
from services.auth.core.layout import GRANT, INTENT, LIVE, NSM, STATE, STREAMS
from services.auth.model import Identity, Rights

EVERYTHING = f"{subjects.ROOT}.>"
# A service opens one consumer per filter and keeps its number; a person's command opens some per kind.
_CONSUMERS, _CONSUMERS_OF_PEOPLE = 8, 32
_OWN_LOGIN = "$SYS.REQ.USER.INFO"  # when it ends


def rights(identity: Identity, connection: str) -> Rights:
    """The rights of who was verified, under the connection name that was checked."""
    account = layout.ROLE_ACCOUNTS[identity.role]
    publish = _PUBLISH[identity.role](_Client(connection, account), identity.node)
    return Rights(
        account=account,
        publish=(_OWN_LOGIN, *publish),
        subscribe=(
            f"{layout.INBOXES[account]}.{connection}.>",
            *(
                (EVERYTHING, f"{subjects.LOG_ROOT}.>", f"{layout.HISTORY}.>")
                if identity.role == "admin"
                else ()
            ),
        ),
    )


class _Client:
    """Subjects of the API as one connection names them."""

    def __init__(self, connection: str, account: str) -> None:
        self._connection = connection
        self._api = layout.API if account == NSM else layout.IMPORTED_API

    def follow(
        self, stream: str, filters: Sequence[str], *, consumers: int = _CONSUMERS
    ) -> Iterable[str]:
        """Create and delete own consumers of these filters, and answer their flow control."""
        for number in range(1, consumers + 1):
            name = f"{self._connection}-{number}"
            for subject in filters:
                yield f"{self._api}.CONSUMER.CREATE.{stream}.{name}.{subject}"
            yield f"{self._api}.CONSUMER.DELETE.{stream}.{name}"
            yield f"$JS.FC.{stream}.{name}.>"

    def inspect(self, stream: str) -> Iterable[str]:
        """Ask about own consumers, the stream, and who else follows it."""
        yield f"{self._api}.STREAM.INFO.{stream}"
        yield f"{self._api}.CONSUMER.LIST.{stream}"
        for number in range(1, _CONSUMERS_OF_PEOPLE + 1):
            yield f"{self._api}.CONSUMER.INFO.{stream}.{self._connection}-{number}"

    def read_again(self, stream: str, subject: str) -> str:
        """Read what a subject holds: a write without an answer may be stored or not."""
        return f"{self._api}.DIRECT.GET.{stream}.{subject}"


def _leading(
    me: _Client, service: str, stream: str, kinds: Sequence[type[subjects.Key]]
) -> Iterable[str]:
    guard, lease = LeaderKey(service).subject, LeaseKey(service).subject
    for subject in (*(kind.all() for kind in kinds), guard):
        yield subject
        yield f"{layout.HISTORY.removesuffix(subjects.ROOT)}{subject}"  # NSM_LOG cannot capture guarded writes
        yield me.read_again(stream, subject)
    yield lease
    yield me.read_again(LIVE, lease)
    # Any replica answers a direct get: where there are several, owners ask the stream's leader.
    yield f"{layout.API}.STREAM.MSG.GET.{stream}"
    yield f"{layout.API}.STREAM.MSG.GET.{LIVE}"
    for name in STREAMS:  # made and checked by both, on every connection
        yield from (f"{layout.API}.STREAM.{verb}.{name}" for verb in ("INFO", "CREATE", "UPDATE"))
    for name in (INTENT, GRANT, STATE):
        yield from me.follow(name, [EVERYTHING])


def _watcher(me: _Client, _: str) -> Iterable[str]:
    kinds = (RequestKey, EndpointKey, NetworkServiceKey, PrefixKey)
    return _leading(me, "watcher", INTENT, kinds)


def _ipam(me: _Client, _: str) -> Iterable[str]:
    return _leading(me, "ipam", GRANT, (ConnectionKey, RefusalKey, PoolKey, ClusterKey))


def _plumber(me: _Client, node: str) -> Iterable[str]:
    alive = AliveKey(node).subject
    said = (StatusKey.all(node), NodeKey(node).subject, SeenKey(node).subject)
    yield from (*said, alive)
    yield from (me.read_again(STATE, subject) for subject in said)
    yield me.read_again(LIVE, alive)
    yield from me.follow(
        GRANT, [LeaderKey("ipam").subject, ConnectionKey.all(node), ClusterKey().subject]
    )
    yield from me.follow(STATE, [NodeKey(node).subject, StatusKey.all(node)])  # what it said itself


def _dns(me: _Client, node: str) -> Iterable[str]:
    said = ResolverKey.all(node)
    yield said
    yield me.read_again(STATE, said)
    yield from me.follow(GRANT, [LeaderKey("ipam").subject, ConnectionKey.all(node)])
    yield from me.follow(STATE, [said])


def _viewer(me: _Client, _: str) -> Iterable[str]:
    # By consumers alone. A plain subscription to one subject would make the server deliver there what somebody
    # else's consumer names as its deliver subject, and the stream behind that subject would store it.
    for stream in STREAMS:
        yield from me.follow(stream, [">"], consumers=_CONSUMERS_OF_PEOPLE)
        yield from me.inspect(stream)
        yield me.read_again(stream, ">")


def _admin(_: _Client, __: str) -> Iterable[str]:
    return (EVERYTHING, f"{layout.API}.>", "$JS.FC.>", "$JS.ACK.>")


_PUBLISH = {
    "watcher": _watcher,
    "ipam": _ipam,
    "plumber": _plumber,
    "dns": _dns,
    "viewer": _viewer,
    "admin": _admin,
}
