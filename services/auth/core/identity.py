"""Who a token belongs to, from what Kubernetes says of it, and what its connection may be called.

Whatever is not exactly right is denied with a stable reason: no role is guessed, no node is taken from the
client's own word.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from schemas.values import is_object_name
from services.auth.core.layout import NODE_ROLES, ROLE_ACCOUNTS
from services.auth.model import Denied, Identity

_ACCOUNT_PREFIX = "nsm-"
_SUFFIX = re.compile(r"[0-9a-f]{8}")
_EXTRA = "authentication.kubernetes.io/"


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: dict[str, list[str]] | None = None


class _ReviewStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: list[str] | None = None
    error: str = ""


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


def from_review(body: bytes, *, namespace: str, audience: str, expires: int) -> Identity | Denied:
    """Who a TokenReview says it is. Raises msgspec.DecodeError for what is no TokenReview."""
    status = msgspec.json.decode(body, type=_Review).status
    if not status.authenticated:
        return Denied(
            "TokenInvalid", f"the API server refuses the token: {status.error or 'no reason given'}"
        )
    extra = status.user.extra or {}
    told = {name: (extra.get(_EXTRA + name) or [""])[0] for name in ("node-name", "pod-name")}
    return _identity(
        status.user.username,
        status.audiences or (),
        node=told["node-name"],
        pod=told["pod-name"],
        expires=expires,
        wanted=(namespace, audience),
    )


def from_claims(claims: Mapping[str, Any], *, namespace: str, audience: str) -> Identity | Denied:
    """Who the claims of a token with a good signature say it is."""
    bound: Any = claims.get("kubernetes.io")
    bound = bound if isinstance(bound, dict) else {}
    owner, pod, node = (_name(bound, part) for part in ("serviceaccount", "pod", "node"))
    username = str(claims.get("sub", ""))
    if username != f"system:serviceaccount:{bound.get('namespace')}:{owner}":
        return Denied(
            "TokenInvalid", f"the token of {username!r} is not bound to that ServiceAccount"
        )
    said = claims.get("aud", ())
    return _identity(
        username,
        [said] if isinstance(said, str) else list(said),
        node=node,
        pod=pod,
        expires=int(claims.get("exp", 0)),
        wanted=(namespace, audience),
    )


def name_problem(identity: Identity, name: str) -> Denied | None:
    """Why a connection of this identity may not be called `name`, or None."""
    wanted = identity.role
    if identity.node:
        wanted += "-" + identity.node.replace(".", "_")
    head, _, suffix = name.rpartition("-")
    if head == wanted and _SUFFIX.fullmatch(suffix):
        return None
    return Denied(
        "WrongConnectionName",
        f"the connection is called {name[:300]!r}, this token's are called {wanted}-<8 hex>",
    )


def _identity(
    username: str,
    audiences: Sequence[str],
    *,
    node: str,
    pod: str,
    expires: int,
    wanted: tuple[str, str],
) -> Identity | Denied:
    namespace, audience = wanted
    if audience not in audiences:
        return Denied(
            "WrongAudience",
            f"the token of {username} is for {list(audiences)}, not for {audience!r}",
        )
    prefix = f"system:serviceaccount:{namespace}:{_ACCOUNT_PREFIX}"
    role = username.removeprefix(prefix)
    if role == username or role not in ROLE_ACCOUNTS:
        roles = ", ".join(f"{_ACCOUNT_PREFIX}{role}" for role in ROLE_ACCOUNTS)
        return Denied("UnknownRole", f"{username} is none of {roles} in namespace {namespace}")
    if role not in NODE_ROLES:
        return Identity(role=role, namespace=namespace, pod=pod, expires=expires)
    if not is_object_name(node):
        return Denied(
            "NoNode",
            f"the token of {username} names no node: only a token that was made for a Pod does (Kubernetes 1.30 on)",
        )
    return Identity(role=role, node=node, namespace=namespace, pod=pod, expires=expires)


def _name(bound: Mapping[str, Any], part: str) -> str:
    found = bound.get(part)
    return str(found.get("name", "")) if isinstance(found, dict) else ""
