"""Image files of a few kilobytes that would cost a host its memory, its disk or its next image.

Each is built in a moment, and made small by compression as somebody would who wants to do harm.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

import zstandard

from tests.registry_storage import PREFIX, archive_of, blob_path, digest_of, file_member

_LINK = digest_of(b"")


def compressed(data: bytes) -> bytes:
    """As small as it gets."""
    return zstandard.compress(data, 19)


def deep(levels: int) -> bytes:
    """An archive with a repository below so many folders, made step by step."""
    members = []
    for depth in (*range(500, levels, 500), levels):
        home = f"{PREFIX}/repositories/{'a/' * depth}"
        members.append(file_member(f"{home}_manifests/tags/t/current/link", _LINK.encode()))
    return archive_of([_with_data(*member) for member in members], tarfile.PAX_FORMAT)


def many_inodes(links: int, depth: int = 1) -> bytes:
    """Links in as many repositories: each brings all the folders that lead to it."""

    def members() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        for number in range(links):
            home = "/".join([f"r{number}", *["a"] * (depth - 1)])
            name = f"{PREFIX}/repositories/{home}/_manifests/tags/t/current/link"
            yield file_member(name, _LINK.encode())

    return archive_of(list(members()))


def overlapping_pax(size: int = 60_000) -> bytes:
    """An extended header whose records each claim to be two bytes, and have keys of thousands."""
    records = b"2 " * (size // 2) + b"a=\n"
    return _extended(records, tarfile.XHDTYPE)


def global_pax(headers: int, records: int = 5000) -> bytes:
    """Global headers without end, each with other keys."""
    parts = []
    for number in range(headers):
        lines = (_record(f"{number:x}.{key:x}", b"") for key in range(records))
        parts.append(_header(b"".join(lines), tarfile.XGLTYPE))
        parts.append(tarfile.TarInfo("some").tobuf(tarfile.USTAR_FORMAT))
    return b"".join(parts) + bytes(10240)


def zeros(size: int) -> bytes:
    """A blob of zeros with its right digest, in holes: the archive has none of its bytes."""
    import hashlib

    digester = hashlib.sha256()
    piece = bytes(1 << 20)
    for _ in range(size >> 20):
        digester.update(piece)
    digest = f"sha256:{digester.hexdigest()}"
    member, data = file_member(f"{PREFIX}/{blob_path(digest)}", b"")
    member.pax_headers = {"GNU.sparse.map": f"{size},0", "GNU.sparse.size": str(size)}
    return archive_of([(member, data)], tarfile.PAX_FORMAT)


def _with_data(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return member, data


def _extended(records: bytes, kind: bytes) -> bytes:
    return _header(records, kind) + tarfile.TarInfo("some").tobuf(tarfile.USTAR_FORMAT) + bytes(
        10240
    )


def _header(records: bytes, kind: bytes) -> bytes:
    member = tarfile.TarInfo("header")
    member.type, member.size = kind, len(records)
    return member.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def _record(key: str, value: bytes) -> bytes:
    body = f" {key}=".encode() + value + b"\n"
    length = len(body) + len(str(len(body)))
    length = len(body) + len(str(length))
    return str(length).encode() + body
