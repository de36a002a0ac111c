"""Certificates for the tests: an authority, a server's, hosts', and those with something wrong."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

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
