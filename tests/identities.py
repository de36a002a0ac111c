"""Certificates for the tests: an authority, a server's, hosts', and those with something wrong."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from kollacast.authority.certificates import Identity, issue, make_authority
from kollacast.operator.config import Certificates

NOW = datetime.now(timezone.utc)


class Authority:
    """One that issues what a test asks for."""

    def __init__(self, days: int = 30) -> None:
        self.identity = make_authority("authority of a test", NOW, days)

    def certificates(
        self, name: str, *addresses: str, by: Authority | None = None, age_days: int = 0
    ) -> Certificates:
        """Of the host ``name``, which believes this authority and was issued its own ``by`` one.

        It was issued so many days ago, for ten days.
        """
        made = NOW - timedelta(days=age_days)
        issued: Identity = issue((by or self).identity, name, addresses, made, 10)
        return Certificates(self.identity.certificate_pem, issued.certificate_pem, issued.key_pem)


class EvenAuthority:
    """One whose certificates, and all that is said with them, are of the same length each time.

    So what is cut where in a network in memory follows from its seed alone. They are good for ever.
    """

    def __init__(self) -> None:
        self._key = ed25519.Ed25519PrivateKey.generate()
        self._own = self._issue("authority", "authority", self._key, (), is_authority=True)

    def certificates(self, name: str, *addresses: str) -> Certificates:
        """Of the host ``name``, and of a server at ``addresses``."""
        key = ed25519.Ed25519PrivateKey.generate()
        chain = self._issue(name, "authority", key, addresses)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Certificates(self._own, chain, key_pem)

    def _issue(
        self,
        name: str,
        issuer: str,
        key: ed25519.Ed25519PrivateKey,
        addresses: tuple[str, ...],
        *,
        is_authority: bool = False,
    ) -> bytes:
        names = [x509.DNSName(name), *(x509.IPAddress(ip_address(a)) for a in addresses)]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime(2000, 1, 1))
            .not_valid_after(datetime(9999, 12, 31))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return builder.sign(self._key, None).public_bytes(serialization.Encoding.PEM)


def put(folder: Path, certificates: Certificates) -> Path:
    """A folder for ``--tls-dir``."""
    folder.mkdir()
    for name, data in (
        ("ca.pem", certificates.authorities),
        ("cert.pem", certificates.chain),
        ("key.pem", certificates.key),
    ):
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    return folder
