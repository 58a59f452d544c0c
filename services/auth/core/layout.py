"""Accounts, and what they show each other: the configuration of the server, as text.

Permission lists inside one account are not enough: the server answers to any `reply` subject with its own
rights, so whoever may only publish its own status could have an acknowledgement written over another node's
grant. So the streams live in NSM, and NODES and VIEW import only what they need: a reply subject of theirs
means nothing in NSM. The JetStream API is imported under another name, because the server keeps `$JS.API` of
every account for itself.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from schemas import subjects

AUTH, NSM, NODES, VIEW, SYS = "AUTH", "NSM", "NODES", "VIEW", "SYS"

INTENT, GRANT, STATE, LIVE, LOG = "NSM_INTENT", "NSM_GRANT", "NSM_STATE", "NSM_LIVE", "NSM_LOG"
STREAMS = (INTENT, GRANT, STATE, LIVE, LOG)
HISTORY = f"history.{subjects.ROOT}"

API = "$JS.API"
IMPORTED_API = "NSM.API"
INBOXES = {NSM: "_INBOX", NODES: "_nodes", VIEW: "_view"}
ROLE_ACCOUNTS = {
    "watcher": NSM,
    "ipam": NSM,
    "plumber": NODES,
    "dns": NODES,
    "viewer": VIEW,
    "admin": NSM,
}
NODE_ROLES = frozenset(role for role, account in ROLE_ACCOUNTS.items() if account == NODES)

_NODES_PUBLISH = tuple(
    kind.all()
    for kind in (
        subjects.StatusKey,
        subjects.ResolverKey,
        subjects.NodeKey,
        subjects.SeenKey,
        subjects.AliveKey,
    )
)
# What an account that only follows needs of the API; FC carries the answers of its flow control.
_FOLLOW = ("CONSUMER.CREATE", "CONSUMER.DELETE")
_LOOK = ("CONSUMER.INFO", "CONSUMER.LIST", "STREAM.INFO", "DIRECT.GET")
_OF_WHOLE_STREAMS = frozenset({"CONSUMER.LIST", "STREAM.INFO"})  # no more tokens follow


def configuration(*, issuer: str, responder: str, xkey: str) -> str:
    """What the server's own configuration includes: accounts and the callout, with public keys only."""
    nodes = [
        *((subject, subject) for subject in _NODES_PUBLISH),
        *_api(_FOLLOW, (GRANT, STATE)),
        *_api(("DIRECT.GET",), (STATE, LIVE)),
        *_flow_control((GRANT, STATE)),
    ]
    view = [*_api(_FOLLOW + _LOOK, STREAMS), *_flow_control(STREAMS)]
    roots = (f"{subjects.ROOT}.>", f"{subjects.LOG_ROOT}.>", f"{HISTORY}.>")
    shown = {NODES: (f"{INBOXES[NODES]}.>",), VIEW: (f"{INBOXES[VIEW]}.>", *roots)}
    services = {NODES: nodes, VIEW: view}
    accounts = [
        f"  {AUTH}: {{ users: [ {{ nkey: {responder} }} ] }}",
        f"  {SYS}: {{}}",
        _block(NSM, jetstream="enabled", exports=_exports(services, shown)),
        *(_block(name, imports=_imports(services[name], shown[name])) for name in services),
    ]
    return _TEXT.format(accounts="\n".join(accounts), issuer=issuer, responder=responder, xkey=xkey)


_TEXT = """\
# Made by `python -m services.auth config`; no secret is in it. To be included by the server's configuration.
system_account: SYS
accounts {{
{accounts}
}}
authorization {{
  timeout: 2
  auth_callout {{
    issuer: {issuer}
    account: AUTH
    auth_users: [ {responder} ]
    xkey: {xkey}
  }}
}}
"""

_Pairs = list[tuple[str, str]]  # the subject in NSM, the one in the account that imports it


def _api(operations: Sequence[str], streams: Sequence[str]) -> _Pairs:
    pairs = []
    for operation in operations:
        for stream in streams:
            rest = f"{operation}.{stream}" + ("" if operation in _OF_WHOLE_STREAMS else ".>")
            pairs.append((f"{API}.{rest}", f"{IMPORTED_API}.{rest}"))
    return pairs


def _flow_control(streams: Sequence[str]) -> _Pairs:
    return [(f"$JS.FC.{stream}.>",) * 2 for stream in streams]


def _exports(
    services: Mapping[str, _Pairs], shown: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """One per subject, to every account that imports it."""
    who: dict[tuple[str, str], list[str]] = {}
    for account in services:
        for subject, _ in services[account]:
            who.setdefault(("service", subject), []).append(account)
        for subject in shown[account]:
            who.setdefault(("stream", subject), []).append(account)
    return [{kind: subject, "accounts": names} for (kind, subject), names in who.items()]


def _imports(services: _Pairs, shown: Sequence[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for subject, local in services:
        entry = {"service": {"account": NSM, "subject": subject}}
        found.append(entry if subject == local else {**entry, "to": local})
    return found + [{"stream": {"account": NSM, "subject": subject}} for subject in shown]


def _block(name: str, *, jetstream: str = "", **lists: list[dict[str, Any]]) -> str:
    lines = [f"  {name}: {{"]
    if jetstream:
        lines.append(f"    jetstream: {jetstream}")
    for key, entries in lists.items():
        lines += [f"    {key}: [", *(f"      {json.dumps(entry)}" for entry in entries), "    ]"]
    return "\n".join([*lines, "  }"])
