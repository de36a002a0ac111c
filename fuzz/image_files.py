"""Image files: an archive made of records, and JSON out of one; and what must hold of both.

The input for an archive is records, so that a short one makes headers with right sums, long names
and large contents: a type, a place, flags, and a name, a link and a content behind their lengths.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import zstandard

from fuzz import checks
from kollacast.images import limits
from kollacast.images.archive import read_storage
from kollacast.images.layout import PREFIX, STORAGE, BadImage, blob_path, is_digest, parse
from kollacast.images.manifest import MAX_MANIFEST, read_manifest
from kollacast.images.versions import parse_record

_TYPES = (
    *(tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME),
    *(tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE, tarfile.LNKTYPE, tarfile.SYMTYPE),
    *(tarfile.DIRTYPE, tarfile.SOLARIS_XHDTYPE, b"V", b"\0"),
)
_HOME = f"{PREFIX}/{STORAGE}"
#: What stands before a name; the second one is the whole name, by the digest of the content.
_PLACES = ("", "", f"{_HOME}/repositories/", f"{_HOME}/blobs/sha256/", f"{PREFIX}/")
_REPEAT, _LIES, _OPEN = 1, 2, 4
_TIMES = 256
#: Characters of a line: it may have a dozen names.
_LONGEST = 2000
#: Of the limits, for a search that makes no more than some KiB.
_INODES = 300
_GROWTH = 64 * 1024


def archives(data: bytes) -> None:
    """Any archive: read to its end, or refused in one line, at no more than a bounded cost."""
    image = zstandard.compress(archive_of(data))
    free, limits._FREE_INODES = limits._FREE_INODES, _INODES
    most, limits._FREE_BYTES = limits._FREE_BYTES, _GROWTH
    try:
        listed = _read(image, None)
        made = _Made()
        checks.same(listed, _read(image, made), "unpacked")
    finally:
        limits._FREE_INODES, limits._FREE_BYTES = free, most
    folders = {path[:end] for path in made.files for end in _slashes(path)}
    room = _INODES + len(image) // limits._BYTES_AN_INODE
    if len(folders) + len(made.files) > room:
        raise AssertionError(f"{len(folders)} folders and {len(made.files)} files are made")
    if made.bytes > _GROWTH + len(image) * limits._GROWTH:
        raise AssertionError(f"{made.bytes} bytes are written")


def manifests(data: bytes) -> None:
    """Any bytes as a manifest, and as a record of a version."""
    found = read_manifest(data)
    if found is not None:
        if len(data) > MAX_MANIFEST:
            raise AssertionError("it is read though it is too long")
        json.loads(data)
    try:
        checks.same(limits.read_json(data), json.loads(data), "read in another way")
    except (ValueError, RecursionError):
        pass
    try:
        parse_record(data.decode("utf-8", "replace"), "record")
    except OSError as error:
        checks.line(error.strerror)


def archive_of(data: bytes) -> bytes:
    """The archive that these records make."""
    parts: list[bytes] = []
    is_open = False
    while len(data) >= 3:
        kind, place, flags = data[0] % len(_TYPES), data[1] % len(_PLACES), data[2]
        (name, link, content), data = _take(data[3:], 3)
        if flags & _REPEAT:
            content *= _TIMES
        size = len(content) * 4097 if flags & _LIES else len(content)
        is_open = bool(flags & _OPEN)
        start = _PLACES[place].encode()
        if place == 1:
            start = (
                f"{PREFIX}/{blob_path('sha256:' + hashlib.sha256(content).hexdigest())}".encode()
            )
        parts.append(_header(_TYPES[kind], start + name, link, size))
        parts.append(content + bytes(-len(content) % tarfile.BLOCKSIZE))
    return b"".join(parts) + (b"" if is_open else bytes(1024))


def record(kind: bytes, name: str, content: bytes, place: int = 0, flags: int = 0) -> bytes:
    """One record for `archive_of`."""
    fields = (name.encode(), b"", content)
    head = bytes((_TYPES.index(kind), place, flags))
    return head + b"".join(bytes((len(field),)) + field for field in fields)


def _take(data: bytes, count: int) -> tuple[list[bytes], bytes]:
    """So many fields from the start, each behind its length, and the rest."""
    fields = []
    for _ in range(count):
        length = data[0] if data else 0
        fields.append(data[1 : 1 + length])
        data = data[1 + length :]
    return fields, data


def _header(kind: bytes, name: bytes, link: bytes, size: int) -> bytes:
    block = bytearray(tarfile.BLOCKSIZE)
    head, tail = (b"", name) if len(name) <= 100 else (name[:155], name[156:256])
    block[: len(tail)] = tail
    block[345 : 345 + len(head)] = head
    block[124:136] = b"%011o\0" % size
    block[156:157] = kind
    block[157 : 157 + len(link[:100])] = link[:100]
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


class _Made:
    """What is made where an archive is unpacked."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.bytes = 0

    @contextmanager
    def create(self, path: str) -> Iterator[_Made]:
        if parse(path) is None or ".." in path.split("/") or path.startswith("/"):
            raise AssertionError(f"{path!r} is made")
        if len(path) > limits.MAX_NAME or not path.isprintable():
            raise AssertionError(f"{path!r} is made")
        self.files.add(path)
        yield self

    def write(self, data: bytes) -> None:
        self.bytes += len(data)


def _read(image: bytes, made: _Made | None) -> object:
    """The images that are found, or why it is refused."""
    try:
        found = read_storage(io.BytesIO(image), made.create if made is not None else None)
    except BadImage as error:
        checks.line(error.strerror, _LONGEST)
        return error.strerror
    for line in found.remarks():
        checks.line(line, _LONGEST)
    if not all(map(is_digest, found.needed())):
        raise AssertionError("an image needs what is no digest")
    return found.images()


def _slashes(path: str) -> list[int]:
    return [place for place, letter in enumerate(path) if letter == "/"]
