"""Makes an image file from a registry's storage, the same one each time from the same storage."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeVar, cast

from kollacast.atomic_file import AtomicFile
from kollacast.images.catalog import MAX_MANIFEST, Catalog
from kollacast.images.compression import compressed
from kollacast.images.layout import (
    MAX_LINK,
    PREFIX,
    STORAGE,
    BadImage,
    Blob,
    Link,
    is_digest,
    parse,
)

_T = TypeVar("_T", Blob, Link)


def pack_storage(root: str, path: str, compression: str) -> Catalog:
    """Pack the storage below a registry's root directory into the file `path`.

    The registry may run, and take more images meanwhile. Raises OSError, and BadImage when what
    lies there is damaged, not whole or no image at all; `path` is then what it was before.
    """
    storage = _Storage(root)
    file = AtomicFile(path)
    try:
        with (
            file.descriptor() as fd,
            open(os.dup(fd), "wb") as raw,
            compressed(raw, compression) as stream,
        ):
            catalog = storage.write(stream)
        catalog.images()
        file.commit()
    finally:
        file.abandon()
    return catalog


@dataclass(frozen=True)
class _Content:
    """A link, and the digest in it."""

    link: Link
    digest: str


class _Storage:
    """What is to be packed."""

    def __init__(self, root: str) -> None:
        self._root = root
        storage = os.path.join(root, STORAGE)
        if not os.path.isdir(storage):
            raise BadImage(f"{root}: is no registry's root directory: it has no {STORAGE}")
        # A registry writes blobs before the links to them. In this order there may be blobs too
        # many from an image that is being pushed, and never too few.
        self._links = [self._read(link) for link in self._find("repositories", Link)]
        self._blobs = sorted(self._find("blobs", Blob), key=lambda blob: blob.path)

    def write(self, stream: BinaryIO) -> Catalog:
        """Write the archive. Raises OSError, and BadImage."""
        catalog = Catalog()
        with tarfile.TarFile(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for blob in self._blobs:
                with open(os.path.join(self._root, blob.path), "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    reader = _Digesting(file, blob.digest, size)
                    archive.addfile(_member(blob.path, size), cast(BinaryIO, reader))
                if not reader.is_right():
                    raise BadImage(f"{file.name}: is damaged: the bytes have another digest")
                catalog.add_blob(blob.digest, size, reader.content)
            for content in sorted(self._links, key=lambda content: content.link.path):
                data = content.digest.encode()
                archive.addfile(_member(content.link.path, len(data)), io.BytesIO(data))
                if content.link.tag is not None:
                    catalog.add_tag(content.link.repository, content.link.tag, content.digest)
        return catalog

    def _find(self, below: str, kind: type[_T]) -> Iterator[_T]:
        top = os.path.join(self._root, STORAGE, below)
        for folder, _, names in os.walk(top, onerror=_unless_gone):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), self._root)
                entry = parse(path)
                if isinstance(entry, kind):
                    yield entry

    def _read(self, link: Link) -> _Content:
        path = os.path.join(self._root, link.path)
        with open(path, "rb") as file:
            digest = file.read(MAX_LINK + 1).decode("ascii", "replace")
        if not is_digest(digest) or digest != (link.digest or digest):
            raise BadImage(f"{path}: is damaged: it holds another digest than it has to")
        return _Content(link, digest)


class _Digesting:
    """A blob while it is packed: never more than `size` bytes, which its header tells."""

    def __init__(self, file: BinaryIO, digest: str, size: int) -> None:
        algorithm, _, self._expected = digest.partition(":")
        self._digester = hashlib.new(algorithm)
        self._file = file
        #: The whole blob, if it may be a manifest.
        self.content: bytes | None = b"" if size <= MAX_MANIFEST else None

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._digester.update(data)
        if self.content is not None:
            self.content += data
        return data

    def is_right(self) -> bool:
        """Whether what was read has the digest that it has to have."""
        return self._digester.hexdigest() == self._expected


def _member(path: str, size: int) -> tarfile.TarInfo:
    """The header of a file, with nothing in it that differs from one storage to another."""
    member = tarfile.TarInfo(f"{PREFIX}/{path}")
    member.size = size
    member.mode = 0o644
    return member


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # as an upload that has ended meanwhile
        raise error
