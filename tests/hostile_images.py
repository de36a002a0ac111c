"""Image files of a few kilobytes that would cost a host its memory, its disk or its next image.

Each is made in a moment, and small by compression, as somebody makes it who wants to do harm.
"""

from __future__ import annotations

import hashlib
import json
import tarfile

import zstandard

from tests.registry_storage import PREFIX, archive_of, blob_path, digest_of, file_member

_DIGEST = digest_of(b"").encode()


def compressed(data: bytes) -> bytes:
    """As small as it gets."""
    return zstandard.compress(data, 19)


def deep(levels: int) -> bytes:
    """A repository below so many folders, made step by step."""
    members = []
    for depth in (*range(500, levels, 500), levels):
        home = f"{PREFIX}/repositories/{'a/' * depth}"
        members.append(file_member(f"{home}_manifests/tags/t/current/link", _DIGEST))
    return archive_of(members, tarfile.PAX_FORMAT)


def inodes(links: int, depth: int) -> bytes:
    """Links in as many repositories; each brings the folders that lead to it."""
    members = []
    for number in range(links):
        home = "/".join([f"r{number}", *["a"] * (depth - 1)])
        name = f"{PREFIX}/repositories/{home}/_manifests/tags/t/current/link"
        members.append(file_member(name, _DIGEST))
    return archive_of(members)


def overlapping_records(size: int = 60_000) -> bytes:
    """An extended header whose records say that they have two bytes, with keys of thousands."""
    return _header(b"2 " * (size // 2) + b"a=\n", tarfile.XHDTYPE) + _some() + bytes(10240)


def global_records(headers: int, records: int = 5000) -> bytes:
    """Global headers without end, each with other keys."""
    parts = []
    for number in range(headers):
        lines = b"".join(_record(f"{number:x}.{key:x}") for key in range(records))
        parts.append(_header(lines, tarfile.XGLTYPE) + _some())
    return b"".join(parts) + bytes(10240)


def zeros(size: int) -> bytes:
    """A blob of so many MiB of zeros with its right digest: the archive has none of its bytes."""
    digester = hashlib.sha256()
    for _ in range(size):
        digester.update(bytes(1 << 20))
    member, data = file_member(f"{PREFIX}/{blob_path('sha256:' + digester.hexdigest())}", b"")
    total = size << 20
    member.pax_headers = {"GNU.sparse.map": f"{total},0", "GNU.sparse.size": str(total)}
    return archive_of([(member, data)], tarfile.PAX_FORMAT)


def manifests(count: int, size: int) -> bytes:
    """What may be manifests, so many of so many bytes: lists of nothing, a hundred bytes each."""
    members = []
    for number in range(count):
        start = json.dumps({"schemaVersion": 2, "number": number, "layers": []})[:-2].encode()
        data = start + b"{}," * ((size - len(start)) // 3) + b"{}]}"
        members.append(file_member(f"{PREFIX}/{blob_path(digest_of(data))}", data))
    return archive_of(members)


def _some() -> bytes:
    return tarfile.TarInfo("some").tobuf(tarfile.USTAR_FORMAT)


def _header(records: bytes, kind: bytes) -> bytes:
    member = tarfile.TarInfo("header")
    member.type, member.size = kind, len(records)
    return member.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def _record(key: str) -> bytes:
    body = f" {key}=\n"
    length = len(body) + len(str(len(body)))
    return f"{len(body) + len(str(length))}{body}".encode()
