"""The auth callout: what the server asks, and how it is answered.

A question is a JWT of the server, sealed for our xkey; the answer is a JWT of the account, sealed for the
server's. It holds a user's JWT, or why there is none.
"""

from typing import Any

import msgspec

from services.auth.core import encoding
from services.auth.core.encoding import SERVER, BadEncoding
from services.auth.model import Denied, Keys, Question, Rights

SUBJECT = "$SYS.REQ.USER.AUTH"
XKEY_HEADER = "Nats-Server-Xkey"
_AUDIENCE = "nats-authorization-request"
USER_SECONDS = 3600  # rights are looked at anew after that, at the latest


class _Server(msgspec.Struct, frozen=True):
    id: str


class _Options(msgspec.Struct, frozen=True):
    auth_token: str = ""
    name: str = ""


class _Asked(msgspec.Struct, frozen=True):
    server_id: _Server
    user_nkey: str
    connect_opts: _Options = _Options()


class _Claims(msgspec.Struct, frozen=True):
    iss: str
    aud: str
    nats: _Asked
    exp: int = 0


def read_question(data: bytes, keys: Keys, *, server_xkey: str, now: float) -> Question:
    """What a server asks. Raises BadEncoding for what no server of ours asked."""
    if not server_xkey:
        raise BadEncoding("the question is not sealed: the server's auth_callout has no xkey")
    token = encoding.unseal(data, keys.xkey, server_xkey)
    try:
        claims = msgspec.convert(encoding.decode_jwt(SERVER, token), _Claims)
    except msgspec.ValidationError as exc:
        raise BadEncoding(f"this is no question about a login: {exc}") from exc
    asked = claims.nats
    if claims.aud != _AUDIENCE or claims.iss != asked.server_id.id:
        raise BadEncoding(f"the question is for {claims.aud!r}, by {claims.iss!r}")
    if claims.exp and now > claims.exp:
        raise BadEncoding("the question is too old")
    return Question(
        server=asked.server_id.id,
        user=asked.user_nkey,
        name=asked.connect_opts.name,
        token=asked.connect_opts.auth_token,
    )


def write_answer(
    question: Question,
    verdict: str | Denied,
    keys: Keys,
    *,
    server_xkey: str,
    nonce: bytes,
    now: float,
) -> bytes:
    """The answer: a user's JWT, or why there is none. Sealed for the server that asked."""
    said = (
        {"error": f"{verdict.reason}: {verdict.message}"}
        if isinstance(verdict, Denied)
        else {"jwt": verdict}
    )
    claims = {
        "iat": int(now),
        "sub": question.user,
        "aud": question.server,
        "nats": {**said, "type": "authorization_response", "version": 2},
    }
    token = encoding.encode_jwt(keys.issuer, claims)
    return encoding.seal(token.encode(), keys.xkey, server_xkey, nonce=nonce)


def user_jwt(question: Question, rights: Rights, keys: Keys, *, expires: int, now: float) -> str:
    """The user that the server makes of this login: nothing it may do is left to a default."""
    nats: dict[str, Any] = {
        "pub": {"allow": list(rights.publish)},
        "sub": {"allow": list(rights.subscribe)},
        "subs": -1,
        "data": -1,
        "payload": -1,
        "type": "user",
        "version": 2,
    }
    return encoding.encode_jwt(
        keys.issuer,
        {
            "iat": int(now),
            "exp": min(expires, int(now) + USER_SECONDS),
            "sub": question.user,
            "aud": rights.account,
            "name": question.name,
            "nats": nats,
        },
    )


def ask(server_seed: str, *, user: str, name: str, now: float) -> bytes:
    """A question as a server with this seed would ask it, for who wants to hear whether we answer."""
    asked = {
        "server_id": {"id": encoding.public_of(SERVER, server_seed)},
        "user_nkey": user,
        "connect_opts": {"name": name},
    }
    claims = {"aud": _AUDIENCE, "exp": int(now) + 10, "iat": int(now), "sub": user, "nats": asked}
    return encoding.encode_jwt(server_seed, claims, kind=SERVER).encode()
