"""The streams: who writes them, what they hold, and why each setting is as it is.

One writer class per stream, so that permissions and guards are simple. `discard new` with explicit
`max_bytes`: with `discard old` a limit would silently evict the oldest truth. Rollup, purge and delete are
off, and so is `subject_delete_marker_ttl`, which would switch them on again: one node's credentials could
then wipe a stream with one message.

Whoever changes a setting adds one to EDITION, and keeps it such that the version before works under it: in an
upgrade owners of both run at once, and after a step back the older one alone.
"""

from typing import Any

from schemas import subjects

INTENT = "NSM_INTENT"
GRANT = "NSM_GRANT"
STATE = "NSM_STATE"
LIVE = "NSM_LIVE"
LOG = "NSM_LOG"

# A leader message carries the incarnations of these: one made anew has lost what was true.
TRUTH = (INTENT, GRANT, STATE)
LEADERS = {INTENT: "watcher", GRANT: "ipam"}

# NSM_LOG captures `log.nsm.>`, but refuses a guarded message: the expectation in its headers, republished
# with it, never holds there. Leaders therefore tell what they committed under this root.
HISTORY_ROOT = "history"

EDITION = 2  # of the settings below; a test knows them
_EDITION_KEY = "nsm.edition"  # in a stream's metadata

_MIB = 1 << 20
_SECOND = 1_000_000_000  # the API speaks nanoseconds

_KINDS: dict[str, tuple[type[subjects.Key], ...]] = {
    INTENT: (
        subjects.RequestKey,
        subjects.EndpointKey,
        subjects.NetworkServiceKey,
        subjects.PrefixKey,
    ),
    GRANT: (subjects.ConnectionKey, subjects.RefusalKey, subjects.PoolKey, subjects.ClusterKey),
    STATE: (subjects.StatusKey, subjects.NodeKey, subjects.SeenKey, subjects.ResolverKey),
    LIVE: (subjects.LeaseKey, subjects.AliveKey),
}
_STREAMS = {kind: stream for stream, kinds in _KINDS.items() for kind in kinds}


def stream_of(key: subjects.Key) -> str:
    """The stream that holds this key."""
    if isinstance(key, subjects.LeaderKey):
        for stream, service in LEADERS.items():
            if service == key.service:
                return stream
        raise KeyError(f"{key.service!r} leads no stream; leaders are {sorted(LEADERS.values())}")
    return stream_of_kind(type(key))


def stream_of_kind(kind: type[subjects.Key]) -> str:
    """The stream of all keys of a kind; not of guards, which lie in several."""
    return _STREAMS[kind]


def told_subject(subject: str) -> str:
    """The subject that an entry of NSM_LOG is about."""
    return subject.removeprefix("log.").removeprefix(f"{HISTORY_ROOT}.")


def configs(replicas: int) -> list[dict[str, Any]]:
    """The configuration of every stream, as the server's API takes it. Creators first: LOG is ready early."""
    return [
        _log(replicas),
        *(_truth(name, replicas) for name in TRUTH),
        _live(replicas),
    ]


def corrected(wanted: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The configuration a stream should get, by what it is: where it is stored cannot be changed.

    Servers that are several never keep fewer copies.
    In a rollout from one server to three, owners of both settings run at once. Each undid what the other had
    done, ten times a second, until the server kept the copy that had nothing: grants were lost.
    """
    wanted = {**wanted, "storage": info["config"]["storage"]}
    copies = info["config"].get("num_replicas", 1)
    if info.get("cluster", {}).get("name") and copies > wanted["num_replicas"]:
        return {**wanted, "num_replicas": copies}
    return wanted


def is_newer(info: dict[str, Any]) -> bool:
    """Whether an owner of a newer version has set a stream: then it alone decides, or each undid the other's word."""
    return edition_of(info["config"]) > EDITION


def edition_of(config: dict[str, Any]) -> int:
    """0: of a version that counted none."""
    text = (config.get("metadata") or {}).get(_EDITION_KEY, "")
    return int(text) if text.isdigit() else 0


def differs(wanted: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether a stream has other settings than these. In its metadata the server keeps some of its own."""
    metadata = found.get("metadata") or {}
    return any(
        not value.items() <= metadata.items()
        if option == "metadata"
        else found.get(option) != value
        for option, value in wanted.items()
    )


def _subjects(stream: str) -> list[str]:
    """What a stream captures; the guard of its writer lies with what it guards."""
    if stream == LOG:
        return [f"{subjects.LOG_ROOT}.>", f"{HISTORY_ROOT}.{subjects.ROOT}.>"]
    found = [kind.all() for kind in _KINDS[stream]]
    if stream in LEADERS:
        found.append(subjects.LeaderKey.all(LEADERS[stream]))
    return found


def _common(name: str, replicas: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": _subjects(name),
        "retention": "limits",
        "num_replicas": replicas,
        # Left out, the server stops at 1,000. A node has four on NSM_GRANT; it can never be changed later.
        "max_consumers": 50_000,
        "duplicate_window": 30 * _SECOND,  # a publish is retried for seconds, not minutes
        "allow_direct": True,
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": False,
        "deny_purge": True,
        "deny_delete": True,
        "metadata": {_EDITION_KEY: str(EDITION)},
    }


def _truth(name: str, replicas: int) -> dict[str, Any]:
    return {
        **_common(name, replicas),
        "storage": "file",
        "discard": "new",
        "max_bytes": 512 * _MIB,
        "max_msgs_per_subject": 1,
        "republish": {"src": f"{subjects.ROOT}.>", "dest": f"{subjects.LOG_ROOT}.>"},
    }


def _live(replicas: int) -> dict[str, Any]:
    return {
        **_common(LIVE, replicas),
        # Copies in memory had no leader again after two of three servers had ended, until both were back.
        "storage": "file",
        "discard": "new",
        "max_bytes": 16 * _MIB,
        "max_msgs_per_subject": 1,
    }


def _log(replicas: int) -> dict[str, Any]:
    return {
        **_common(LOG, replicas),
        "storage": "file",
        "discard": "old",  # the only one whose past may go
        "max_bytes": 256 * _MIB,
        "max_age": 3600 * _SECOND,
    }
