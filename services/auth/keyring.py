"""The keys on disk: made once, readable by their owner alone, never overwritten."""

import os
import secrets
from pathlib import Path

import msgspec

from services.auth.core import encoding
from services.auth.core.encoding import ACCOUNT, CURVE, USER
from services.auth.core.layout import configuration
from services.auth.model import Keys


class BadKeys(Exception):
    """The keys file cannot be read, made or used; says why and what to do."""


def make(path: Path) -> None:
    """Write new keys to a file that does not exist yet. Raises BadKeys."""
    keys = Keys(
        issuer=encoding.encode_seed(ACCOUNT, secrets.token_bytes(32)),
        responder=encoding.encode_seed(USER, secrets.token_bytes(32)),
        xkey=encoding.encode_seed(CURVE, secrets.token_bytes(32)),
    )
    try:
        # Exclusively: other keys would lock out every server that has the public halves of these.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(keys) + b"\n")
    except FileExistsError as exc:
        raise BadKeys(f"{path} exists: remove it if new keys are really wanted") from exc
    except OSError as exc:
        raise BadKeys(f"{path} cannot be written: {exc.strerror}; name another place") from exc


def read(path: Path) -> Keys:
    """The keys of a file, each checked to be of its kind. Raises BadKeys."""
    remedy = "make it with: python -m services.auth keys FILE"
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=Keys)
        public(keys)
    except OSError as exc:
        raise BadKeys(f"keys file {path}: {exc.strerror}; {remedy}") from exc
    except (msgspec.DecodeError, encoding.BadEncoding) as exc:
        raise BadKeys(f"keys file {path}: {exc}; {remedy}") from exc
    return keys


def public(keys: Keys) -> dict[str, str]:
    """The public halves, by name. Raises BadEncoding."""
    return {
        "issuer": encoding.public_of(ACCOUNT, keys.issuer),
        "responder": encoding.public_of(USER, keys.responder),
        "xkey": encoding.public_of(CURVE, keys.xkey),
    }


def server_configuration(keys: Keys) -> str:
    """What the nats-server that trusts these keys includes in its configuration."""
    return configuration(**public(keys))
