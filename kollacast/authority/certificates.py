"""Certificates: an authority's own, those that it issues, and one that nobody vouches for.

They are X.509 (RFC 5280) with keys on the curve P-256, which everybody's TLS has, and whose
handshakes cost least.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: A host's clock may be behind by so much.
_CLOCK_SKEW = timedelta(days=1)
#: What a host may be called in a certificate, where it stands in the place of a name of the DNS.
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?", re.ASCII)

_Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class BadName(ValueError):
    """No certificate can be for this name, for the reason in the text."""


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: _Key

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """PKCS #8, without a password."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def make_authority(name: str, now: datetime, days: int) -> Identity:
    """An authority that can issue certificates for so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_subject(name), _subject(name), key, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    builder = builder.add_extension(usage, critical=True)
    return Identity(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: Identity, name: str, addresses: tuple[str, ...], now: datetime, days: int
) -> Identity:
    """A certificate of the host ``name``.

    With ``addresses``, of IP or names, it is one of a server as well, which is reached at these;
    without, nobody takes it for a server's.  Raises :class:`BadName`.
    """
    check_name(name)
    key = ec.generate_private_key(ec.SECP256R1())
    until = authority.certificate.not_valid_after_utc
    builder = _builder(_subject(name), authority.certificate.subject, key, now, days, until)
    alternatives = [x509.DNSName(name), *(_alternative(address) for address in addresses)]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if addresses:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(
        authority.certificate.public_key()  # type: ignore[arg-type]
    )
    for extension, is_critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage(usages), False),
        (x509.SubjectAlternativeName(dict.fromkeys(alternatives)), False),
        (issuer, False),
    ):
        builder = builder.add_extension(extension, critical=is_critical)
    return Identity(builder.sign(authority.key, hashes.SHA256()), key)


def make_unknown() -> Identity:
    """A certificate that nobody vouches for, for a connection that is proved by other means.

    All that is said with it is of the same length each time.
    """
    key = ed25519.Ed25519PrivateKey.generate()
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject("kollacast"))
        .issuer_name(_subject("kollacast"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1))
        .not_valid_after(datetime(9999, 12, 31))
    )
    return Identity(builder.sign(key, None), key)


def load(certificate_pem: bytes, key_pem: bytes) -> Identity:
    """What was written by :class:`Identity`; ValueError where it is something else."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except TypeError:
        raise ValueError("the key has a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is no elliptic curve's")
    if certificate.public_key() != key.public_key():
        raise ValueError("the key is not the certificate's")
    return Identity(certificate, key)


def check_name(name: str) -> None:
    """Raise :class:`BadName` unless a certificate can be for the host ``name``."""
    if not _NAME.fullmatch(name):
        raise BadName(
            f"{name!r}: must be 1 to 64 letters, digits, '-', '_' and '.', and begin and end with a"
            " letter, a digit or '_'"
        )


def name_of(certificate: x509.Certificate) -> str | None:
    """What the host of a certificate is called; None where it does not say.

    That is its first name of the DNS, or else its common name.
    """
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):
        names = []
    if names:
        return names[0]
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: int,
    until: datetime | None = None,
) -> x509.CertificateBuilder:
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(end if until is None else min(end, until))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(address: str) -> x509.GeneralName:
    try:
        ip: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        check_name(address)
        return x509.DNSName(address)
    return x509.IPAddress(ip)


def _key_usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})
