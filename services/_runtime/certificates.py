"""Certificates of our own authorities: made, judged, rotated. Everything is PEM bytes; time comes from outside.

A file may hold several certificates; the first one is the one that counts: the leaf of a chain, the newest
authority of a bundle. Rotation of an authority: trust `bundle(new, old)` everywhere, then issue by the new one,
and when the old one's last leaf is gone, trust the new one alone.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
LEAF_DAYS = 90
_SKEW = timedelta(hours=1)  # whose clock is a little behind accepts a new certificate at once
_DIGEST = hashes.SHA256()


class BadCertificate(ValueError):
    """A certificate or a key that cannot be used for what was asked."""


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and its private key."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


class Authority(Certificate, frozen=True, kw_only=True):
    """One that issues others. `certificate` may be a bundle: its first one issues."""


def new_authority(name: str, *, now: datetime) -> Authority:
    """A new authority with a new key, for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named(name)
    made = (
        _builder(subject, subject, key.public_key())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, _DIGEST)
    )
    return Authority(certificate=made.public_bytes(Encoding.PEM), key=_pem_of(key))


def issue(
    authority: Authority, names: Sequence[str], *, now: datetime, days: int = LEAF_DAYS
) -> Certificate:
    """A certificate with a new key for servers and clients of these names (DNS names, addresses).

    It never outlives the authority. Raises BadCertificate.
    """
    if not names:
        raise BadCertificate("a certificate for nobody: give at least one name or address")
    issuer, issuer_key = _opened(authority)
    until = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    if until <= now:
        raise BadCertificate(
            f"the authority {_shown(issuer)} ended at {until.isoformat()}: make a new one"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    made = (
        _builder(_named(names[0]), issuer.subject, key.public_key())
        .not_valid_before(now - _SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([_general(each) for each in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(identifier, critical=False)
        .sign(issuer_key, _DIGEST)
    )
    return Certificate(certificate=made.public_bytes(Encoding.PEM), key=_pem_of(key))


def renewal_due(pem: bytes, *, now: datetime) -> bool:
    """Whether a third of the life, or less, is left of the first certificate. What cannot be read is due."""
    try:
        first = _first(pem)
    except BadCertificate:
        return True
    since, until = first.not_valid_before_utc, first.not_valid_after_utc
    return now < since or 3 * (until - now) <= until - since


def ends(pem: bytes) -> datetime:
    """When the first certificate ends. Raises BadCertificate."""
    return _first(pem).not_valid_after_utc


def issued_at(pem: bytes) -> datetime:
    """When the first certificate was made. Raises BadCertificate."""
    return _first(pem).not_valid_before_utc + _SKEW


def covers(pem: bytes, names: Sequence[str]) -> bool:
    """Whether the first certificate is valid for each of these names and addresses, to the letter."""
    try:
        found = _first(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (BadCertificate, x509.ExtensionNotFound):
        return False
    return {_general(each) for each in names} <= set(found.value)


def issued_by(pem: bytes, authorities: bytes) -> bool:
    """Whether one of a bundle of authorities signed the first certificate."""
    try:
        leaf, candidates = _first(pem), _all(authorities)
    except BadCertificate:
        return False
    return any(_signed(leaf, each) for each in candidates)


def belongs(certificate: Certificate) -> bool:
    """Whether the key is that of the first certificate: two halves may have been written by two writers."""
    try:
        _opened(certificate)
    except BadCertificate:
        return False
    return True


def bundle(*pems: bytes, now: datetime) -> bytes:
    """All certificates of these files in order, each once, without those that ended. Raises BadCertificate."""
    kept = {
        each.public_bytes(Encoding.PEM): None
        for pem in pems
        for each in _all(pem)
        if each.not_valid_after_utc > now
    }
    return b"".join(kept)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    # A common name has room for 64 characters; the names that count are the alternative ones.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _opened(pair: Certificate) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _first(pair.certificate)
    try:
        key = load_pem_private_key(pair.key, password=None)
    except (ValueError, TypeError) as exc:
        raise BadCertificate(f"the key of {_shown(certificate)} cannot be read: {exc}") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadCertificate(f"the key of {_shown(certificate)} is none of a curve: make a new one")
    if key.public_key() != certificate.public_key():
        raise BadCertificate(f"the key is not that of {_shown(certificate)}: make both anew")
    return certificate, key


def _signed(leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _first(pem: bytes) -> x509.Certificate:
    return _all(pem)[0]


def _all(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as exc:
        raise BadCertificate(f"no certificate in PEM: {exc}") from exc


def _shown(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
