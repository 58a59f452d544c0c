"""nkeys, JWTs and xkey boxes as NATS writes them. Wrong input raises BadEncoding, never anything else.

An nkey is a type byte, 32 bytes of key and a checksum, in base32; a seed has two type bytes. A JWT of NATS is
signed with Ed25519 by an nkey. An xkey is an X25519 key in the same spelling; what is sealed with it begins
with `xkv1` and a nonce.
"""

import base64
import binascii
import hashlib
from typing import Any

import msgspec
import nacl.exceptions
from nacl.public import Box, PrivateKey, PublicKey
from nacl.signing import SigningKey, VerifyKey

SERVER, ACCOUNT, USER, CURVE = 13 << 3, 0, 20 << 3, 23 << 3
_SEED = 18 << 3

_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
_SEALED = b"xkv1"
_NONCE_BYTES = 24


class BadEncoding(ValueError):
    """Bytes that are no nkey, JWT or box, or that were not signed by who says so."""


def encode_public(kind: int, key: bytes) -> str:
    """The public nkey of this kind: `A…`, `U…`, `N…`, `X…`."""
    return _base32(bytes([kind]) + key)


def encode_seed(kind: int, seed: bytes) -> str:
    """The seed nkey: `SA…`, `SU…`, `SX…`."""
    return _base32(bytes([_SEED | kind >> 5, (kind & 31) << 3]) + seed)


def decode_public(kind: int, text: str) -> bytes:
    """The 32 bytes of a public nkey of this kind. Raises BadEncoding."""
    raw = _unbase32(text, 33)
    if raw[0] != kind:
        raise BadEncoding(
            f"{text[:1]!r} is another kind of nkey than {encode_public(kind, b'')[:1]!r}"
        )
    return raw[1:]


def decode_seed(kind: int, text: str) -> bytes:
    """The 32 bytes of a seed of this kind. Raises BadEncoding, without the seed in its text."""
    raw = _unbase32(text, 34)
    if raw[0] & 0xF8 != _SEED or ((raw[0] & 7) << 5 | raw[1] >> 3) != kind:
        raise BadEncoding("this is no seed of the kind that is needed here")
    return raw[2:]


def public_of(kind: int, seed: str) -> str:
    """The public nkey that belongs to a seed. Raises BadEncoding."""
    raw = decode_seed(kind, seed)
    if kind == CURVE:
        return encode_public(kind, bytes(PrivateKey(raw).public_key))
    return encode_public(kind, bytes(SigningKey(raw).verify_key))


def sign(kind: int, seed: str, data: bytes) -> bytes:
    """The Ed25519 signature of `data`."""
    return SigningKey(decode_seed(kind, seed)).sign(data).signature


def encode_jwt(seed: str, claims: dict[str, Any], *, kind: int = ACCOUNT) -> str:
    """A JWT signed with a seed of this kind; `iss` and `jti` are filled in."""
    claims = {**claims, "iss": public_of(kind, seed)}
    claims["jti"] = (
        base64.b32encode(hashlib.sha256(msgspec.json.encode(claims)).digest()).decode().rstrip("=")
    )
    signed = b".".join(_base64(msgspec.json.encode(part)) for part in (_HEADER, claims))
    return (signed + b"." + _base64(sign(kind, seed, signed))).decode()


def decode_jwt(kind: int, token: bytes) -> dict[str, Any]:
    """The claims of a JWT that is signed by its own `iss`, an nkey of this kind. Raises BadEncoding."""
    try:
        head, body, signature = token.split(b".")
        header, claims = (
            msgspec.json.decode(_unbase64(p), type=dict[str, Any]) for p in (head, body)
        )
        if header != _HEADER:
            raise BadEncoding(f"a JWT with the header {header} is not one of NATS")
        issuer = decode_public(kind, str(claims.get("iss")))
        VerifyKey(issuer).verify(head + b"." + body, _unbase64(signature))
    except BadEncoding:
        raise
    except (ValueError, msgspec.DecodeError, nacl.exceptions.CryptoError) as exc:
        raise BadEncoding(f"this is no JWT signed by its issuer: {exc}") from exc
    return claims


def seal(data: bytes, seed: str, to: str, *, nonce: bytes) -> bytes:
    """`data` for the holder of xkey `to` alone; `nonce` is 24 bytes never used before."""
    box = Box(PrivateKey(decode_seed(CURVE, seed)), PublicKey(decode_public(CURVE, to)))
    return _SEALED + nonce + box.encrypt(data, nonce).ciphertext


def unseal(data: bytes, seed: str, sender: str) -> bytes:
    """What the holder of xkey `sender` sealed for us. Raises BadEncoding."""
    body = data.removeprefix(_SEALED)
    if body == data:
        raise BadEncoding(f"a sealed message begins with {_SEALED!r}")
    box = Box(PrivateKey(decode_seed(CURVE, seed)), PublicKey(decode_public(CURVE, sender)))
    try:
        return bytes(box.decrypt(body[_NONCE_BYTES:], body[:_NONCE_BYTES]))
    except (ValueError, nacl.exceptions.CryptoError) as exc:
        raise BadEncoding(f"this was not sealed for us by {sender}: {exc}") from exc


def _base32(raw: bytes) -> str:
    checksum = binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(raw + checksum).decode().rstrip("=")


def _unbase32(text: str, length: int) -> bytes:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError as exc:
        raise BadEncoding(f"this is no nkey: {exc}") from exc
    if len(raw) != length + 2 or binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little") != raw[-2:]:
        raise BadEncoding("this is no nkey: its length or checksum is wrong")
    return raw[:-2]


def _base64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _unbase64(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
