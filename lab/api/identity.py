"""ServiceAccount tokens: issued, looked through and made checkable by others, as Kubernetes does it.

A token names its account, and the Pod and Node it was made for, by UID: it is good as long as they are there,
and its time is not over. The signing key lives as long as the server.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from lab.api import fields
from lab.api.discovery import REVIEWS
from lab.api.errors import bad_request, bad_value, conflict, invalid
from lab.api.kinds import NODES, PODS, SERVICE_ACCOUNTS, Kind
from lab.api.shelves import Shelves

Obj = dict[str, Any]

ISSUER = "https://kubernetes.default.svc.cluster.local"
LEAST_SECONDS = 600  # the real server gives none that lives shorter
_MOST_SECONDS = 1 << 32
_USUAL_SECONDS = 3600
_ALGORITHM = "ES256"
_KEY_ID = "lab"
_EXTRA = "authentication.kubernetes.io"


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A token and its end."""

    token: str
    expires: dt.datetime


class Issuer:
    """The API server's token side, over its objects."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves
        self._key = ec.generate_private_key(ec.SECP256R1())

    def issue(
        self,
        namespace: str,
        account: str,
        *,
        audiences: Sequence[str] = (),
        seconds: float = _USUAL_SECONDS,
        pod: str = "",
        node: str = "",
    ) -> Issued:
        """A token of an account, bound to a Pod (and its Node) or to a Node. Raises ApiError."""
        owner = self._shelves.record(SERVICE_ACCOUNTS, namespace, account).body
        now = self._shelves.now().replace(microsecond=0)  # as far as a token can tell
        expires = now + dt.timedelta(seconds=seconds)
        private: Obj = {"namespace": namespace, "serviceaccount": _reference(owner)}
        if pod:
            bound = self._pod(namespace, pod, account)
            private["pod"] = _reference(bound)
            node = fields.text(bound, "spec", "nodeName")
        if node:
            found = self._shelves.find(NODES, "", node)
            private["node"] = _reference(found) if found else {"name": node}
        claims = {
            "aud": list(audiences) or [ISSUER],
            "exp": expires,
            "iat": now,
            "nbf": now,
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": private,
            "sub": _username(namespace, account),
        }
        token = jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": _KEY_ID})
        return Issued(token=token, expires=expires)

    def request(self, namespace: str, account: str, body: Obj) -> Obj:
        """A TokenRequest, answered. Raises ApiError."""
        spec = fields.part(body, "spec")
        seconds = spec.get("expirationSeconds", _USUAL_SECONDS)
        audiences = fields.items(spec, "audiences")
        if not isinstance(seconds, int) or not LEAST_SECONDS <= seconds <= _MOST_SECONDS:
            why = "may not specify a duration less than 10 minutes, or more than 2^32 seconds"
            field = "spec.expirationSeconds"
            raise invalid(SERVICE_ACCOUNTS, account, [bad_value(field, str(seconds), why)])
        if not all(isinstance(audience, str) for audience in audiences):
            raise bad_request("spec.audiences is no list of strings")
        reference = fields.part(spec, "boundObjectRef")
        issued = self.issue(
            namespace,
            account,
            audiences=audiences,
            seconds=seconds,
            **self._bound(namespace, reference),
        )
        return body | {
            "apiVersion": REVIEWS,
            "kind": "TokenRequest",
            "metadata": {"name": account, "namespace": namespace},
            "spec": spec | {"audiences": audiences or [ISSUER], "expirationSeconds": seconds},
            "status": {
                "token": issued.token,
                "expirationTimestamp": fields.timestamp(issued.expires),
            },
        }

    def review(self, body: Obj) -> Obj:
        """A TokenReview, answered: who it is, or why that is not known."""
        spec = fields.part(body, "spec")
        wanted = [str(audience) for audience in fields.items(spec, "audiences")] or [ISSUER]
        try:
            status = self._review(fields.text(spec, "token"), wanted)
        except (jwt.InvalidTokenError, _Refused) as exc:
            status = {"user": {}, "error": f"[invalid bearer token, {exc}]"}
        head = {"apiVersion": REVIEWS, "kind": "TokenReview", "metadata": {}}
        return body | head | {"spec": spec, "status": status}

    def jwks(self) -> Obj:
        """The public key, for those who check tokens themselves."""
        public: Obj = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [public | {"use": "sig", "kid": _KEY_ID, "alg": _ALGORITHM}]}

    def configuration(self) -> Obj:
        return {
            "issuer": ISSUER,
            "jwks_uri": f"{ISSUER}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [_ALGORITHM],
        }

    def _pod(self, namespace: str, name: str, account: str) -> Obj:
        pod = self._shelves.record(PODS, namespace, name).body
        other = fields.text(pod, "spec", "serviceAccountName")
        if other != account:
            raise bad_request(
                f"cannot bind token for serviceaccount {account!r} to pod running with different "
                f"serviceaccount name {other!r}"
            )
        return pod

    def _bound(self, namespace: str, reference: Obj) -> dict[str, str]:
        if not reference:
            return {}
        kind, name = fields.text(reference, "kind"), fields.text(reference, "name")
        if kind not in ("Pod", "Node"):
            raise bad_request(f"cannot bind token to object of type {kind!r}: only to Pod and Node")
        place, where = (PODS, namespace) if kind == "Pod" else (NODES, "")
        found = self._shelves.record(place, where, name).body["metadata"]
        if fields.text(reference, "uid") not in ("", found["uid"]):
            why = f"the UID in the bound object reference ({reference['uid']}) does not match the UID in record"
            raise conflict(place, name, why)
        return {kind.lower(): name}

    def _review(self, token: str, wanted: list[str]) -> Obj:
        # The time is our clock's, not the library's: both ends of a token are judged by the same one.
        options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
        claims = jwt.decode(
            token,
            self._key.public_key(),
            algorithms=[_ALGORITHM],
            issuer=ISSUER,
            options=options | {"verify_aud": False},
        )
        now = self._shelves.now().timestamp()
        if now >= claims["exp"]:
            raise _Refused("token has expired")
        audiences = [audience for audience in wanted if audience in claims["aud"]]
        if not audiences:
            raise _Refused(
                f"token audiences {claims['aud']} is invalid for the target audiences {wanted}"
            )
        private = claims["kubernetes.io"]
        self._check_alive(private)
        user = _user(private, str(claims["jti"]))
        return {"authenticated": True, "user": user, "audiences": audiences}

    def _check_alive(self, private: Obj) -> None:
        namespace = private["namespace"]
        bound: list[tuple[str, Kind, str]] = [
            ("serviceaccount", SERVICE_ACCOUNTS, namespace),
            ("pod", PODS, namespace),
            ("node", NODES, ""),
        ]
        for word, kind, where in bound:
            # Of a Pod's node Kubernetes says only the name: the Pod's end is the end of that, too.
            if word not in private or (word == "node" and "pod" in private):
                continue
            found = self._shelves.find(kind, where, private[word]["name"])
            if found is None or found["metadata"]["uid"] != private[word].get("uid"):
                raise _Refused(f"{word} {private[word]['name']} has been deleted")


class _Refused(Exception):
    """A token that was good once, or for others."""


def _reference(obj: Obj) -> Obj:
    return {"name": obj["metadata"]["name"], "uid": obj["metadata"]["uid"]}


def _username(namespace: str, account: str) -> str:
    return f"system:serviceaccount:{namespace}:{account}"


def _user(private: Obj, token_id: str) -> Obj:
    namespace, account = private["namespace"], private["serviceaccount"]
    extra = {f"{_EXTRA}/credential-id": [f"JTI={token_id}"]}
    for word in ("node", "pod"):
        for field in ("name", "uid"):
            if field in private.get(word, {}):
                extra[f"{_EXTRA}/{word}-{field}"] = [private[word][field]]
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    return {
        "username": _username(namespace, account["name"]),
        "uid": account["uid"],
        "groups": [*groups, "system:authenticated"],
        "extra": extra,
    }
