"""The values auth thinks in: its keys, who somebody is, what NATS asks, what it is answered."""

import msgspec


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The seeds auth holds: made once, kept in one Secret, never shown."""

    issuer: str  # of the account that signs users
    responder: str  # the user that auth itself logs in as
    xkey: str  # what the server encrypts its questions for

    def __repr__(self) -> str:
        return "Keys(***)"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a token belongs to, as Kubernetes says."""

    role: str
    node: str = ""  # of the Pod that the token was made for
    namespace: str = ""
    pod: str = ""
    expires: int = 0  # Unix seconds


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A login that the server asks about."""

    server: str  # its nkey
    user: str  # nkey that the answer has to name
    name: str  # of the connection, as the client says
    token: str


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """What a user may do in its account; what is not listed is refused."""

    account: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class Denied(msgspec.Struct, frozen=True):
    """Why somebody is not let in: `reason` is stable, `message` is for people."""

    reason: str
    message: str
