"""Certificates of the bus: made at install, renewed and rotated by the same code, run again each day.

What stands is never broken: a new authority is told to everybody 20 hours before anything is issued by it, and an
old one is trusted until 20 hours after the last certificate of it was replaced. `planned` decides all of this from
what is stored and the time; a run that changes nothing else may come at any moment, any number of times.
A new authority on demand: kubectl -n nsm-system annotate secret nsm-ca networkservicemesh.io/rotate=now
"""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from services._runtime import certificates
from services._runtime.certificates import Authority, BadCertificate, Certificate
from tools.kube import Api, Changed, InstallFailed, Object

CA_SECRET, AUTHORITIES = "nsm-ca", "authorities.json"
CA_MAP, CA = "nsm-ca", "ca.crt"
TLS_SECRET, CERTIFICATE, KEY = "nsm-nats-tls", "tls.crt", "tls.key"
ROTATE = "networkservicemesh.io/rotate"
# As long as a kubelet may need to bring a changed ConfigMap to its Pods, many times over. Less than the CronJob's
# period by more than its Pod may be late: each night takes its step.
OVERLAP = timedelta(hours=20)
LEAF_DAYS = 365  # each renewal makes every client of a server log in anew

_ATTEMPTS = 3


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster holds: authorities, newest first, and the servers' certificate."""

    authorities: tuple[Authority, ...] = ()
    leaf: Certificate | None = None


def names(namespace: str) -> list[str]:
    """What clients, other servers and a forwarded port call a server."""
    cluster = [f"nats.{namespace}.svc", f"*.nats-pods.{namespace}.svc"]
    return [
        *cluster,
        *(f"{each}.cluster.local" for each in cluster),
        *("nats", f"nats.{namespace}", "localhost", "127.0.0.1", "::1"),
    ]


def planned(
    stored: Stored, wanted: Sequence[str], *, now: datetime, rotate: bool = False
) -> Stored:
    """What should be stored instead; the same object if nothing has to change."""
    authorities = stored.authorities
    if not authorities or certificates.renewal_due(authorities[0].certificate, now=now) or rotate:
        authorities = (certificates.new_authority("nsm", now=now), *authorities)
    issuing = next(
        (each for each in authorities if _age(each, now) >= OVERLAP),
        authorities[-1],  # nobody trusts another one yet
    )
    leaf = stored.leaf
    if leaf is None or not _is_good(leaf, issuing, wanted, now=now):
        leaf = certificates.issue(issuing, wanted, now=now, days=LEAF_DAYS)
    elif _age(leaf, now) >= OVERLAP:  # every server shows it, so no older authority is needed
        authorities = authorities[: authorities.index(issuing) + 1]
    found = Stored(authorities=authorities, leaf=leaf)
    return stored if found == stored else found


def _is_good(
    leaf: Certificate, issuing: Authority, wanted: Sequence[str], *, now: datetime
) -> bool:
    pem = leaf.certificate
    return (
        certificates.belongs(leaf)
        and certificates.issued_by(pem, issuing.certificate)
        and certificates.covers(pem, wanted)
        and not certificates.renewal_due(pem, now=now)
    )


def _age(each: Certificate, now: datetime) -> timedelta:
    return now - certificates.issued_at(each.certificate)


def install(api: Api, *, now: datetime | None = None) -> list[str]:
    """Make and renew what is due; what was done, one line each. Raises InstallFailed."""
    now = now or datetime.now(UTC)
    for _ in range(_ATTEMPTS):
        try:
            return _install(api, now)
        except Changed:
            continue  # another run was faster: its word counts, and what is left to do is decided anew
    raise InstallFailed(f"Secret {CA_SECRET} keeps changing: who else writes it?")


def _install(api: Api, now: datetime) -> list[str]:
    ca, tls = api.get("secrets", CA_SECRET), api.get("secrets", TLS_SECRET)
    stored = Stored(authorities=_authorities_of(ca), leaf=_leaf_of(tls))
    metadata = (ca or {}).get("metadata", {})
    rotate = ROTATE in (metadata.get("annotations") or {})
    try:
        found = planned(stored, names(api.namespace), now=now, rotate=rotate)
        bundle = certificates.bundle(*(each.certificate for each in found.authorities), now=now)
    except BadCertificate as exc:
        raise InstallFailed(
            f"Secret {CA_SECRET}: {exc}; delete it, so that a new one is made"
        ) from exc
    authorities: Object = {AUTHORITIES: _encoded(_written(found.authorities))}
    done: Object = {"metadata": {"annotations": {ROTATE: None}}} if rotate else {}
    said = []
    # In this order: a certificate is never in use before the authority is kept, and told to all.
    if found.authorities != stored.authorities:
        said.append(_put(api, CA_SECRET, ca, {"data": authorities, **done}))
    said.append(_tell(api, {CA: bundle.decode()}))
    if found.leaf is not None and (found.leaf != stored.leaf or _bundle_of(tls) != bundle):
        data = {CERTIFICATE: found.leaf.certificate, KEY: found.leaf.key, CA: bundle}
        encoded = {name: _encoded(value) for name, value in data.items()}
        said.append(_put(api, TLS_SECRET, tls, {"data": encoded, "type": "kubernetes.io/tls"}))
    return said


def _put(api: Api, name: str, before: Object | None, content: Object) -> str:
    if before is None:
        if api.create("secrets", name, content) is None:
            raise Changed(f"Secret {name} is there by now")
        return f"Secret {name} created"
    version = before["metadata"]["resourceVersion"]
    metadata = {"resourceVersion": version, **content.get("metadata", {})}
    api.patch("secrets", name, {"data": content["data"], "metadata": metadata})
    return f"Secret {name} renewed"


def _tell(api: Api, data: Object) -> str:
    if api.create("configmaps", CA_MAP, {"data": data}) is not None:
        return f"ConfigMap {CA_MAP} created"
    if (api.get("configmaps", CA_MAP) or {}).get("data") == data:
        return f"ConfigMap {CA_MAP} is as it should be"
    api.patch("configmaps", CA_MAP, {"data": data})
    return f"ConfigMap {CA_MAP} changed"


def _authorities_of(secret: Object | None) -> tuple[Authority, ...]:
    if secret is None:
        return ()
    try:
        found = json.loads(base64.b64decode(secret["data"][AUTHORITIES]))
        return tuple(
            Authority(certificate=each["certificate"].encode(), key=each["key"].encode())
            for each in found
        )
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise InstallFailed(
            f"Secret {CA_SECRET} has no {AUTHORITIES} that can be read: delete it, so that a new one is made"
        ) from exc


def _written(authorities: Sequence[Authority]) -> bytes:
    return json.dumps(
        [
            {"certificate": each.certificate.decode(), "key": each.key.decode()}
            for each in authorities
        ]
    ).encode()


def _leaf_of(secret: Object | None) -> Certificate | None:
    """None also for what cannot be read: it is made anew."""
    try:
        data = (secret or {})["data"]
        return Certificate(
            certificate=base64.b64decode(data[CERTIFICATE]), key=base64.b64decode(data[KEY])
        )
    except (KeyError, TypeError, ValueError):
        return None


def _bundle_of(secret: Object | None) -> bytes:
    return base64.b64decode(((secret or {}).get("data") or {}).get(CA, ""))


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()
