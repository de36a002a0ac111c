"""Makes an image file from a registry's storage, the same one each time from the same storage.

Packed are all links of all repositories, and the blobs that these name: a registry serves no
others. The registry may run, and in the middle of writing a file.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeVar, cast

from kollacast.files.atomic_file import AtomicFile
from kollacast.images.catalog import Catalog
from kollacast.images.compression import compressed
from kollacast.images.layout import MAX_LINK, PREFIX, STORAGE, BadImage, Blob, Link, blob_path
from kollacast.images.manifest import MAX_MANIFEST
from kollacast.images.tree import broken_link, find_links

#: Seconds for which a file that is not what it should be may be under way, and between two looks.
_PATIENCE_S = 3.0
_LOOK_S = 0.1
#: How often the work may begin anew because a large file was under way when it was packed.
_ATTEMPTS = 3
_PIECE = 1024 * 1024

_T = TypeVar("_T")


def pack_storage(root: str, path: str, compression: str) -> Catalog:
    """Pack the storage below a registry's root directory into the file `path`.

    The registry may run, and take more images meanwhile. Raises OSError, and BadImage when what
    lies there is damaged, not whole or no image at all; `path` is then what it was before.
    """
    if not os.path.isdir(os.path.join(root, STORAGE)):
        raise BadImage(f"{root}: is no registry's root directory: it has no {STORAGE}")
    for _ in range(_ATTEMPTS):
        storage = _Storage(root)
        file = AtomicFile(path)
        try:
            with (
                file.descriptor() as fd,
                open(os.dup(fd), "wb") as raw,
                compressed(raw, compression) as stream,
            ):
                storage.write(stream)
            file.commit()
            return storage.catalog
        except _ChangedError as error:
            changed = str(error)
        finally:
            file.abandon()
    raise BadImage(f"{changed}: changes all the time")


class _ChangedError(Exception):
    """This file was not what it should be when it was packed, and now is."""


class _Storage:
    """What is to be packed."""

    def __init__(self, root: str) -> None:
        """Read what describes the images. Raises OSError, and BadImage if one is not whole."""
        self._root = root
        self.catalog = Catalog()
        # A registry writes blobs before the links to them. In this order there may be blobs too
        # many from an image that is being pushed, and never too few.
        self._links = self._read_links()
        self._blobs = self._read_blobs()
        try:
            self._needed = self.catalog.needed()
        except BadImage as error:
            raise BadImage(f"{root}: {error.strerror}") from None

    def write(self, stream: BinaryIO) -> None:
        """Write the archive. Raises OSError, BadImage among them, and _ChangedError."""
        with tarfile.TarFile(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for blob in sorted(self._blobs, key=lambda blob: blob.path):
                if blob.digest in self._needed or self._is_usable(blob):
                    self._write_blob(archive, blob)
            for path, digest in sorted(self._links.items()):
                archive.addfile(_member(path, len(digest)), io.BytesIO(digest.encode()))

    def _read_links(self) -> dict[str, str]:
        """Digests by the path of the link."""
        found = list(find_links(self._root, self.catalog.remark))
        digests: dict[str, str] = {}

        def is_right(link: Link) -> bool:
            data = self._content(link.path, MAX_LINK + 1)
            digest = (data or b"").decode("ascii", "replace")
            if data is not None and not link.may_hold(digest):
                return False
            if data is not None:
                digests[link.path] = digest
                self.catalog.add_link(link, digest)
            return True  # or gone

        for link in _wrong_for_long(found, is_right):
            why = f"{self._path(link)}: is damaged: it holds another digest than it has to"
            self.catalog.add_damaged(link, why, f"left out: {why}")
        return digests

    def _read_blobs(self) -> list[Blob]:
        """All that the links name and that is there, with the content of manifests."""
        blobs = [Blob(blob_path(digest), digest) for digest in sorted(set(self._links.values()))]
        there = [blob for blob in blobs if self._note_size(blob)]

        def is_right(blob: Blob) -> bool:
            if not self._may_be_manifest(blob):
                return self._note_size(blob)
            data = self._content(blob.path, MAX_MANIFEST + 1) or b""
            if not _is_of(data, blob.digest):
                return False
            self.catalog.add_blob(blob.digest, len(data), data)
            return True

        for blob in _wrong_for_long(there, is_right):
            self._note_damaged(blob)
        return [blob for blob in there if blob.digest in self.catalog.sizes]

    def _may_be_manifest(self, blob: Blob) -> bool:
        """Also what has not begun to be one: a registry writes it where it will be read."""
        return self.catalog.sizes[blob.digest] <= MAX_MANIFEST and (
            self._content(blob.path, 1) in (b"{", b"", None)
        )

    def _note_size(self, blob: Blob) -> bool:
        """Whether a blob is there."""
        try:
            size = os.stat(os.path.join(self._root, blob.path)).st_size
        except FileNotFoundError:
            if why := broken_link(self._root, blob.path):
                self.catalog.add_damaged(blob, why, f"left out: {why}")
            return False
        self.catalog.add_blob(blob.digest, size, None)
        return True

    def _note_damaged(self, blob: Blob) -> None:
        self.catalog.remove_blob(blob.digest)
        why = f"{self._path(blob)}: is damaged: the bytes have another digest"
        self.catalog.add_damaged(blob, why, f"left out: {why}")

    def _is_usable(self, blob: Blob) -> bool:
        """Whether a blob that no image needs is what it should be; else it is not packed."""
        try:
            if self._is_right(blob):
                return True
        except FileNotFoundError:
            self.catalog.remove_blob(blob.digest)
            return False
        self._note_damaged(blob)
        return False

    def _write_blob(self, archive: tarfile.TarFile, blob: Blob) -> None:
        path = self._path(blob)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            reader = _Digesting(file, blob.digest, is_strict=True)
            archive.addfile(_member(blob.path, size), cast(BinaryIO, reader))
        if reader.is_right():
            return
        if _wrong_for_long([blob], self._is_right):
            raise BadImage(f"{path}: is damaged: the bytes have another digest")
        raise _ChangedError(path)

    def _is_right(self, blob: Blob) -> bool:
        path = self._path(blob)
        with _named(path), open(path, "rb") as file:
            reader = _Digesting(file, blob.digest)
            while file.peek(1):
                reader.read(_PIECE)
        return reader.is_right()

    def _content(self, path: str, size: int) -> bytes | None:
        """Up to `size` bytes of a file; None where it is gone."""
        whole = os.path.join(self._root, path)
        try:
            with _named(whole), open(whole, "rb") as file:
                return file.read(size)
        except FileNotFoundError:
            return None

    def _path(self, entry: Blob | Link) -> str:
        return os.path.join(self._root, entry.path)


class _Digesting:
    """A blob while it is read."""

    def __init__(self, file: io.BufferedReader, digest: str, is_strict: bool = False) -> None:
        """Where `is_strict`, the file has to have all that is read of it."""
        self._is_strict = is_strict
        algorithm, _, self._expected = digest.partition(":")
        self._digester = hashlib.new(algorithm)
        self._file = file

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or what is left.

        Raises OSError with the file's name, and _ChangedError.
        """
        with _named(self._file.name):
            data = self._file.read(size)
        if self._is_strict and len(data) < size:
            raise _ChangedError(self._file.name)
        self._digester.update(data)
        return data

    def is_right(self) -> bool:
        """Whether what was read has the digest that it has to have."""
        return self._digester.hexdigest() == self._expected


def _is_of(data: bytes, digest: str) -> bool:
    algorithm, _, expected = digest.partition(":")
    return hashlib.new(algorithm, data).hexdigest() == expected


def _wrong_for_long(items: Iterable[_T], is_right: Callable[[_T], bool]) -> list[_T]:
    """Which of `items` are not right, and do not get so within `_PATIENCE_S`."""
    wrong = [item for item in items if not is_right(item)]
    deadline = time.monotonic() + _PATIENCE_S
    while wrong and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        wrong = [item for item in wrong if not is_right(item)]
    return wrong


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Give the file's name to an OSError that has none, as one of reading."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


def _member(path: str, size: int) -> tarfile.TarInfo:
    """The header of a file, with nothing in it that differs from one storage to another."""
    member = tarfile.TarInfo(f"{PREFIX}/{path}")
    member.size = size
    member.mode = 0o644
    return member
