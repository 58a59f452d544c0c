"""How a client reaches the bus: with which token, and under which names its account knows the server's API.

The account follows from the role: nodes and viewers live in accounts of their own, which import the JetStream
API under another root, so that no reply subject of theirs can make the server write where they may not.
Without a token there is one account for all, and everything has its plain name.
"""

import ssl
from pathlib import Path
from typing import NamedTuple

import msgspec

API = "$JS.API"
IMPORTED_API = "NSM.API"
VIEWER = "viewer"


class _Names(NamedTuple):
    api: str
    inbox: str


_PLAIN = _Names(API, "_INBOX")
_NODES = _Names(IMPORTED_API, "_nodes")
_NAMES = {"plumber": _NODES, "dns": _NODES, VIEWER: _Names(IMPORTED_API, "_view")}


class NoToken(OSError):
    """There is no token to log in with; it may come yet. An OSError: nats-py tries on after these only."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection needs besides the address. The default: no token, no TLS."""

    role: str = ""
    token_file: str = ""
    tls_ca: str = ""
    api: str = API  # replaces `$JS.API` in every subject
    inbox: str = "_INBOX"  # the connection's name follows

    @classmethod
    def of(cls, role: str, *, token_file: str = "", tls_ca: str = "") -> "Access":
        """The access of a role: `watcher`, `ipam`, `plumber`, `dns`, `viewer`, `admin`."""
        names = _NAMES.get(role, _PLAIN) if token_file else _PLAIN
        return cls(
            role=role, token_file=token_file, tls_ca=tls_ca, api=names.api, inbox=names.inbox
        )

    def token(self) -> str:
        """The token as the file holds it now: it is replaced while we run. Raises NoToken."""
        try:
            token = Path(self.token_file).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as exc:
            raise NoToken(
                f"the token file {self.token_file} of {self.role} cannot be read: {exc}; check NSM_TOKEN_FILE"
                " and the Pod's projected volume"
            ) from exc
        if not token:
            raise NoToken(
                f"the token file {self.token_file} of {self.role} is empty; check who writes it"
            )
        return token

    def tls(self) -> ssl.SSLContext | None:
        """What TLS trusts; None: no TLS. Raises OSError when the file cannot be used."""
        return ssl.create_default_context(cafile=self.tls_ca) if self.tls_ca else None


def role_of(name: str) -> str:
    """The role in a connection's name `<role>[-<node>]-<8 hex>`."""
    return name.partition("-")[0]
