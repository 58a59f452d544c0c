"""A token checked with the cluster's public keys: what it says counts only if all of this holds.

Signed by one of the keys, with an algorithm for such keys; by the expected issuer; not expired, not too early;
bound to a ServiceAccount. What a TokenReview knows beyond that (a deleted Pod or ServiceAccount) is unknown
here: a token that is refused by TokenReview never comes here.
"""

from collections.abc import Mapping
from typing import Any

import jwt
from jwt.types import Options

from services.auth.model import Denied

_ALGORITHMS = [
    "RS256",
    "RS384",
    "RS512",
    "ES256",
    "ES384",
    "ES512",
]  # never `none`, never a shared secret
_LEEWAY_SECONDS = 5  # between this clock and the API server's
_OPTIONS: Options = {
    "verify_exp": False,  # times are checked here, by the clock that is given
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,  # `identity` looks at it
    "require": ["exp", "iss", "sub", "aud"],
}


def verify(
    token: str, keys: Mapping[str, Any], *, issuer: str, now: float
) -> dict[str, Any] | Denied:
    """The claims of a token that holds now, by keys of a JWKS (`kid` → key)."""
    try:
        kid = jwt.get_unverified_header(token).get("kid", "")
        key = keys.get(kid)
        if key is None:
            return Denied("TokenInvalid", f"no public key of the cluster is called {kid!r}")
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[a for a in _ALGORITHMS if a.startswith(_FAMILY.get(key.key_type, "-"))],
            issuer=issuer,
            options=_OPTIONS,
        )
        expires, begins = float(claims["exp"]), float(claims.get("nbf", 0))
    except (jwt.PyJWTError, ValueError, TypeError) as exc:
        return Denied("TokenInvalid", f"the token does not hold: {exc}")
    if now >= expires:
        return Denied("TokenExpired", f"the token ended {now - expires:.0f} s ago")
    if now < begins - _LEEWAY_SECONDS:
        return Denied("TokenInvalid", f"the token begins in {begins - now:.0f} s")
    return claims


def read_keys(jwks: bytes) -> dict[str, Any]:
    """The keys of a JWKS by `kid`; raises jwt.PyJWTError or ValueError if there is none that we can use."""
    found = jwt.PyJWKSet.from_json(jwks.decode())
    return {key.key_id or "": key for key in found.keys if key.key_type in _FAMILY}


def expiry(token: str) -> int:
    """When a token says it ends; 0 if it does not say. Says nothing about who signed it."""
    try:
        return int(_unverified(token).get("exp", 0))
    except (jwt.PyJWTError, ValueError, TypeError):
        return 0


def is_for_others(token: str, audience: str) -> bool:
    """Whether a token says itself that it is for other audiences: a reason to refuse, none to admit."""
    try:
        said = _unverified(token).get("aud", ())
        return bool(said) and audience not in ([said] if isinstance(said, str) else said)
    except (jwt.PyJWTError, ValueError, TypeError):
        return False


def _unverified(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


_FAMILY = {"RSA": "RS", "EC": "ES"}
