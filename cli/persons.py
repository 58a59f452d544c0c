"""Who looks at the bus: a ServiceAccount token says it, that of NSM_TOKEN_FILE, else the lab's own for its own bus.

`NSM_TOKEN_FILE=-` reads it from standard input: a Pod with a read-only file system has no place for one. Without
a token, what the address holds is all.
"""

import base64
import functools
import os
import re
import secrets
import sys

import msgspec

from cli import labs
from cli.problems import Problem
from lab.layout import State
from services._runtime.access import Access, NoToken

STANDARD_INPUT = "-"
_PER_NODE = frozenset({"plumber", "dns"})
_SERVICES = frozenset({"watcher", "ipam", "plumber", "dns"})  # rights of their own work alone
_SUBJECT = re.compile(r"system:serviceaccount:[^:]+:nsm-([a-z]+)")


_MAKE_ONE = "make one with: kubectl create token nsm-viewer -n nsm-system --audience nats.nsm"


class Person(msgspec.Struct, frozen=True):
    """Who looks, and under which name; consumers and inboxes are named after it."""

    access: Access
    name: str
    given: str = ""  # a token that cannot be read again

    def token(self) -> str:
        """The token as it is now: files are renewed. Raises NoToken."""
        return self.given or self.access.token()

    @property
    def remedy(self) -> str:
        """What to do where this person is not let in."""
        if not self.access.token_file:
            return (
                "the lab's address with its token is told by: nsm lab up, and in lab.json; "
                "a cluster's bus wants NSM_TOKEN_FILE"
            )
        return (
            f"either the token (file {self.access.token_file}), its role {self.access.role} and the connection's "
            f"name {self.name} do not fit: is it still valid, for the audience nats.nsm? Or auth is down; "
            "both is told by: nsm lab logs auth (on a cluster: kubectl -n nsm-system logs deploy/auth)"
        )


def person(server: str, name: str) -> Person:
    """Who we are on this server; `name` where no token says it. Raises Problem."""
    access = Access(token_file=_token_file(server), tls_ca=_tls_ca(server))
    if not access.token_file:
        return Person(access, name)
    token = _read(access)
    role, node = _claimed(token)
    if not role:
        raise Problem(
            f"token file {access.token_file}: this is no token of a ServiceAccount nsm-viewer or nsm-admin; "
            f"{_MAKE_ONE}"
        )
    access = Access.of(role, token_file=access.token_file, tls_ca=access.tls_ca)
    name = "-".join(filter(None, (role, node.replace(".", "_"), secrets.token_hex(4))))
    return Person(access, name, token if access.token_file == STANDARD_INPUT else "")


def refuse_services(role: str) -> None:
    """Raises Problem for a role that may follow what it needs for its work, and nothing else."""
    if role in _SERVICES:
        raise Problem(
            f"a token of role {role} may follow only what {role} itself needs; "
            "use the token of nsm-viewer or nsm-admin"
        )


def _read(access: Access) -> str:
    if access.token_file == STANDARD_INPUT:
        token = _standard_input()
        if not token:
            raise Problem("NSM_TOKEN_FILE=-: there is no token on standard input")
        return token
    try:
        return access.token()
    except NoToken as exc:
        raise Problem(
            f"token file {access.token_file}: {exc.__cause__ or 'is empty'}; {_MAKE_ONE}"
        ) from exc


@functools.cache
def _standard_input() -> str:
    return sys.stdin.read().strip()


def _token_file(server: str) -> str:
    if chosen := os.environ.get("NSM_TOKEN_FILE", ""):
        return chosen
    lab = _lab_of(server)
    return lab.cli_token_file if lab else ""


def _tls_ca(server: str) -> str:
    if chosen := os.environ.get("NSM_TLS_CA", ""):
        return chosen
    lab = _lab_of(server)
    return lab.tls_ca if lab else ""


def _lab_of(server: str) -> State | None:
    """The lab that runs here, if the server is its."""
    try:
        _, state = labs.running()
    except Problem:
        return None
    return state if server == state.nats_url else None


def _claimed(token: str) -> tuple[str, str]:
    """(role, node) as the token says itself: only its reader can tell whether that is true."""
    try:
        body = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        found = _SUBJECT.fullmatch(claims["sub"])
    except (IndexError, KeyError, TypeError, ValueError):
        return "", ""
    try:
        node = str(claims["kubernetes.io"]["node"]["name"])
    except (KeyError, TypeError):
        node = ""
    role = found[1] if found else ""
    return role, node if role in _PER_NODE else ""
