"""What the Secret holds, and what it has to hold now. Pure, but for the keys that are made."""

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from services._runtime import certificates
from services._runtime.certificates import Authority, Certificate

SECRET = "nsm-webhook-tls"  # noqa: S105  a name
AUTHORITY_NAME = "nsm-webhook"
_FIELDS = ("ca.crt", "ca.key", "tls.crt", "tls.key")

Object = dict[str, Any]


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the API server is to trust (a bundle: the first one issues), and what we show it."""

    authority: Authority
    leaf: Certificate


def renewed(material: Material | None, names: Sequence[str], *, now: datetime) -> Material:
    """The material itself while it is good, else with what is due made anew.

    A leaf stays as long as anybody in the bundle issued it, and in the round that makes a new authority the old one
    issues once more: what is served is trusted by who knows the bundle before, too.
    """
    old = _living(material, now=now)
    authority = _successor(old, now=now)
    leaf = material.leaf if material else None
    if leaf is None or not _good(leaf, authority, names, now=now):
        leaf = certificates.issue(old or authority, names, now=now)
    if material and (authority, leaf) == (material.authority, material.leaf):
        return material
    return Material(authority=authority, leaf=leaf)


def _living(material: Material | None, *, now: datetime) -> Authority | None:
    """The authority, if it can still issue."""
    if material is None or not certificates.belongs(material.authority):
        return None
    return material.authority if certificates.ends(material.authority.certificate) > now else None


def _successor(old: Authority | None, *, now: datetime) -> Authority:
    if old and not certificates.renewal_due(old.certificate, now=now):
        return old
    made = certificates.new_authority(AUTHORITY_NAME, now=now)
    if old is None:
        return made
    both = certificates.bundle(made.certificate, old.certificate, now=now)
    return Authority(certificate=both, key=made.key)


def _good(leaf: Certificate, authority: Authority, names: Sequence[str], *, now: datetime) -> bool:
    return (
        certificates.belongs(leaf)
        and certificates.covers(leaf.certificate, names)
        and certificates.issued_by(leaf.certificate, authority.certificate)
        and not certificates.renewal_due(leaf.certificate, now=now)
    )


def of_secret(secret: Object) -> Material | None:
    """What a Secret holds; None: nothing of use."""
    data = secret.get("data") or {}
    try:
        ca, ca_key, leaf, key = (base64.b64decode(data[each], validate=True) for each in _FIELDS)
    except (KeyError, TypeError, binascii.Error):
        return None
    return Material(
        authority=Authority(certificate=ca, key=ca_key),
        leaf=Certificate(certificate=leaf, key=key),
    )


def to_secret(material: Material, secret: Object) -> Object:
    """The Secret that was read, with this material."""
    pems = (
        material.authority.certificate,
        material.authority.key,
        material.leaf.certificate,
        material.leaf.key,
    )
    data = {name: base64.b64encode(pem).decode() for name, pem in zip(_FIELDS, pems, strict=True)}
    return {**secret, "data": data}
