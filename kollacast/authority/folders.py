"""Folders with certificates and keys: each appears whole, and a key is its owner's alone."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping

from kollacast.authority.certificates import Identity, load

#: An authority's certificate and key in its folder, and the files of a folder for ``--tls-dir``.
_AUTHORITY_CERTIFICATE, _AUTHORITY_KEY = "ca.pem", "ca-key.pem"
_CERTIFICATE, _KEY = "cert.pem", "key.pem"
#: The most bytes that are read of one.
_MOST_PEM = 1 << 20


def write_authority(folder: str, authority: Identity) -> None:
    """A new folder of an authority.  Raises OSError, and FileExistsError where there is one."""
    _write(folder, _AUTHORITY_KEY, {
        _AUTHORITY_CERTIFICATE: authority.certificate_pem,
        _AUTHORITY_KEY: authority.key_pem,
    })  # fmt: skip


def read_authority(folder: str) -> Identity:
    """The authority of a folder; OSError and ValueError where there is none."""
    parts = []
    for name in (_AUTHORITY_CERTIFICATE, _AUTHORITY_KEY):
        with open(os.path.join(folder, name), "rb") as file:
            parts.append(file.read(_MOST_PEM))
    return load(*parts)


def write_identity(
    folder: str, authority: Identity, identity: Identity, *, replace: bool = False
) -> None:
    """A new folder for ``--tls-dir``; with ``replace``, in the place of one that is there.

    Raises OSError, and FileExistsError where there is one that stays.
    """
    files = {name: text.encode() for name, text in files_of(authority, identity).items()}
    _write(folder, _KEY, files, replace)


def files_of(authority: Identity, identity: Identity) -> dict[str, str]:
    """What a folder for ``--tls-dir`` holds: the text of each file."""
    return {
        _AUTHORITY_CERTIFICATE: authority.certificate_pem.decode(),
        _CERTIFICATE: identity.certificate_pem.decode(),
        _KEY: identity.key_pem.decode(),
    }


def _write(folder: str, secret: str, files: Mapping[str, bytes], replace: bool = False) -> None:
    parent, name = os.path.split(os.path.abspath(folder))
    # It is made for its owner alone.
    made = tempfile.mkdtemp(prefix=f".{name}.", dir=parent)
    try:
        for file_name, data in files.items():
            _write_file(
                os.path.join(made, file_name), data, 0o600 if file_name == secret else 0o644
            )
        os.chmod(made, 0o700)
        _take_place(made, folder, replace)
        _sync_folder(parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _take_place(made: str, folder: str, replace: bool) -> None:
    """``made`` gets the name ``folder``; what had it is in its place then, and goes with it."""
    try:
        os.rename(made, folder)
    except OSError:
        if not os.path.isdir(folder) or os.path.islink(folder):
            raise
        if not replace:
            raise FileExistsError(17, "exists already", folder) from None
        aside = tempfile.mkdtemp(prefix=".old.", dir=os.path.dirname(made))
        os.rename(folder, aside)
        os.rename(made, folder)
        os.rename(aside, made)


def _write_file(path: str, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
