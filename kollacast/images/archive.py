"""An archive of a registry's storage, read from its start to its end and believed in nothing.

Nothing is read twice and nothing is held but the piece that is under way, so that the archive may
come by a pipe. A blob is compared with the digest in its path while it goes by.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, Protocol, cast

from kollacast.images.catalog import MAX_MANIFEST, Catalog
from kollacast.images.compression import DAMAGED, decompressed
from kollacast.images.layout import MAX_LINK, BadImage, Blob, Link, is_digest, locate, quoted

#: Bytes that are read, digested and written in one go.
PIECE = 1024 * 1024
#: Bytes of what describes one member, such as a long name.
_MAX_HEADER = 64 * 1024


class Writer(Protocol):
    """Where the content of one file goes."""

    def write(self, data: bytes, /) -> object:
        """Write all of `data`. Raises OSError."""


#: Makes the file with this path in a registry's root directory. Raises OSError.
Create = Callable[[str], AbstractContextManager[Writer]]


def read_storage(stream: BinaryIO, create: Create | None = None) -> Catalog:
    """Go through the archive to its end; what a registry needs of it goes to files of `create`.

    `stream` may return less than it is asked for. Raises BadImage, also for an archive that holds
    no image or one that is not whole, and the OSErrors of `stream` and `create`.
    """
    try:
        whole = _Forward(decompressed(stream))
        catalog = Catalog()
        _Reading(whole, catalog, create or _nowhere).run()
        whole.drain()
    except DAMAGED as error:
        raise BadImage(f"it is damaged or cut short: {error}") from None
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise BadImage(f"it is no tar archive of a registry's storage: {error}") from None
    catalog.images()
    return catalog


class _Discard:
    def write(self, data: bytes, /) -> None:
        pass


def _nowhere(path: str) -> AbstractContextManager[Writer]:
    return nullcontext(_Discard())


class _Forward:
    """A stream that knows where it is, and seeks by reading: what tarfile needs for headers."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._at = 0
        self._last = b""

    @property
    def ended_well(self) -> bool:
        """Whether the last that was read is the block of zeros that ends an archive."""
        return self._last == bytes(tarfile.BLOCKSIZE)

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        """`size` bytes of a header, or fewer at the end. Raises BadImage for unlikely sizes."""
        if not 0 <= size <= _MAX_HEADER:
            raise BadImage(f"it has a header of {size} bytes")
        self._last = b"".join(self._pieces(size))
        return self._last

    def seek(self, to: int) -> None:
        if to < self._at:
            raise BadImage("it has a member of less than no bytes")
        for _ in self._pieces(to - self._at):
            pass

    def content(self, member: tarfile.TarInfo, take: Callable[[bytes], object]) -> None:
        """Hand all bytes of `member`, whose header was the last that was read, to `take`."""
        end = self._at + member.size
        for piece in self._pieces(member.size):
            take(piece)
        if self._at != end:
            raise BadImage(f"it is cut short: it ends in its member {quoted(member.name)}")

    def drain(self) -> None:
        """Read on to the end, where the compression has its checksum."""
        while self._stream.read(PIECE):
            pass

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size > 0 and (data := self._stream.read(min(size, PIECE))):
            size -= len(data)
            self._at += len(data)
            yield data


class _Reading:
    """One archive, member by member."""

    def __init__(self, stream: _Forward, catalog: Catalog, create: Create) -> None:
        self._stream = stream
        self._catalog = catalog
        self._create = create

    def run(self) -> None:
        with tarfile.TarFile(fileobj=cast(BinaryIO, self._stream), errors="replace") as archive:
            while (member := archive.next()) is not None:
                # It would keep every one.
                archive.members.clear()  # type: ignore[attr-defined]
                self._member(member)
        if not self._stream.ended_well:
            raise BadImage("it is cut short: the end of the archive is missing")

    def _member(self, member: tarfile.TarInfo) -> None:
        entry = locate(member.name)
        if member.isdir():
            return
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise BadImage(
                f"its member {quoted(member.name)} is neither a file nor a directory, and a"
                " registry's storage has nothing else"
            )
        if isinstance(entry, Blob):
            self._blob(entry, member)
        elif isinstance(entry, Link):
            self._link(entry, member)

    def _blob(self, blob: Blob, member: tarfile.TarInfo) -> None:
        digester = hashlib.new(blob.digest.partition(":")[0])
        content = io.BytesIO() if member.size <= MAX_MANIFEST else None
        with self._create(blob.path) as file:

            def take(data: bytes) -> None:
                digester.update(data)
                file.write(data)
                if content is not None:
                    content.write(data)

            self._stream.content(member, take)
        if digester.hexdigest() != blob.digest.partition(":")[2]:
            raise BadImage(f"its blob {blob.digest} is damaged: the bytes have another digest")
        self._catalog.add_blob(
            blob.digest, member.size, None if content is None else content.getvalue()
        )

    def _link(self, link: Link, member: tarfile.TarInfo) -> None:
        if member.size > MAX_LINK:
            raise BadImage(f"its link {quoted(member.name)} has {member.size} bytes")
        content = io.BytesIO()
        self._stream.content(member, content.write)
        digest = content.getvalue().decode("ascii", "replace")
        if not is_digest(digest) or digest != (link.digest or digest):
            raise BadImage(f"its link {quoted(member.name)} holds another digest than it has to")
        with self._create(link.path) as file:
            file.write(content.getvalue())
        if link.tag is not None:
            self._catalog.add_tag(link.repository, link.tag, digest)
