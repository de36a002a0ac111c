"""An archive of a registry's storage, read from its start to its end and believed in nothing.

Nothing is read twice and nothing is held but the piece that is under way, so that the archive may
come by a pipe. A blob is compared with the digest in its path while it goes by. What a tag needs is
known at the end alone: until then, what no registry can make use of is noted and left out.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, Protocol, cast

from kollacast.images.catalog import Catalog
from kollacast.images.compression import DAMAGED, decompressed
from kollacast.images.layout import MAX_LINK, BadImage, Blob, Link, locate, quoted
from kollacast.images.manifest import MAX_MANIFEST

#: Bytes that are read, digested and written in one go.
PIECE = 1024 * 1024
#: Bytes of what describes one member, such as a long name; and of all of them, for one member.
_MAX_HEADER = 64 * 1024
_MAX_HEADERS = 1024 * 1024
#: Bytes that a member may have without their being in the archive (GNU tar's ``--sparse``).
_MAX_HOLES = 64 * 1024**3
_ZEROS = bytes(PIECE)

#: Members of other kinds than files, for messages.
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


class Writer(Protocol):
    """Where the content of one file goes."""

    def write(self, data: bytes, /) -> object:
        """Write all of `data`. Raises OSError."""


#: Makes the file with this path in a registry's root directory, in the place of one that is there.
#: When the context ends by an exception, there is none. Raises OSError.
Create = Callable[[str], AbstractContextManager[Writer]]


def read_storage(stream: BinaryIO, create: Create | None = None) -> Catalog:
    """Go through the archive to its end; what a registry needs of it goes to files of `create`.

    Where several archives follow each other, as ``cat`` leaves them, they count as one. Where a
    member comes twice, the last one counts. `stream` may return less than it is asked for. Raises
    BadImage, also for an archive that holds no image or one that a registry could not serve, and
    the OSErrors of `stream` and `create`.
    """
    catalog = Catalog()
    is_first = True
    try:
        whole = decompressed(stream)
        start = b""
        while start or is_first:
            archive = _Forward(whole, start)
            _Reading(archive, catalog, create or _nowhere).run()
            start = archive.drain()
            is_first = False
    except DAMAGED as error:
        raise BadImage(f"it is damaged or cut short: {error}") from None
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        if not is_first:
            raise BadImage(f"what follows its end is no archive: {error}") from None
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

    def __init__(self, stream: BinaryIO, start: bytes) -> None:
        """`start` comes before what is in `stream`."""
        self._stream = stream
        self._start = io.BytesIO(start)
        self._at = 0
        self._last = b""
        self._headers = 0  # bytes, of one member

    @property
    def ended_well(self) -> bool:
        """Whether the last that was read is the block of zeros that ends an archive."""
        return self._last == bytes(tarfile.BLOCKSIZE)

    def begin_member(self) -> None:
        """What is read from here on is of another member than what was before."""
        self._headers = 0

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        """`size` bytes of a header, or fewer at the end. Raises BadImage for unlikely sizes."""
        if not 0 <= size <= _MAX_HEADER:
            raise BadImage(f"it has a header of {size} bytes")
        self._headers += size
        if self._headers > _MAX_HEADERS:
            raise BadImage(f"it has headers of more than {_MAX_HEADERS} bytes for one member")
        self._last = b"".join(self._pieces(size))
        return self._last

    def seek(self, to: int) -> None:
        if to < self._at:
            raise BadImage("it has a member of less than no bytes")
        for _ in self._pieces(to - self._at):
            pass

    def content(self, member: tarfile.TarInfo, take: Callable[[bytes], object]) -> None:
        """Hand all bytes of `member`, whose header was the last that was read, to `take`."""
        at = holes = 0
        # Offsets and sizes, as tarfile has them of every kind of GNU tar's sparse members.
        pieces = cast(list[tuple[int, int]], member.sparse) or [(0, member.size)]
        for offset, size in (*(piece for piece in pieces if piece[1]), (member.size, 0)):
            hole = offset - at
            holes += hole
            if hole < 0 or size < 0 or holes > _MAX_HOLES:
                raise BadImage(f"its member {quoted(member.name)} has holes that make no sense")
            for start in range(0, hole, PIECE):
                take(_ZEROS[: hole - start])
            end = self._at + size
            for piece in self._pieces(size):
                take(piece)
            if self._at != end:
                raise BadImage(f"it is cut short: it ends in its member {quoted(member.name)}")
            at = offset + size

    def drain(self) -> bytes:
        """Read on to the end, where the compression has its checksum; or to another archive.

        Returns the start of that one.
        """
        while piece := self._next(PIECE):
            if more := piece.lstrip(b"\0"):
                return more
        return b""

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size > 0 and (data := self._next(min(size, PIECE))):
            size -= len(data)
            self._at += len(data)
            yield data

    def _next(self, size: int) -> bytes:
        return self._start.read(size) or self._stream.read(size)


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
                self._stream.begin_member()
                self._member(member)
        if not self._stream.ended_well:
            raise BadImage("it is cut short: the end of the archive is missing")

    def _member(self, member: tarfile.TarInfo) -> None:
        # tarfile prefers the one that is made up for programs that know nothing of such members.
        member.name = member.pax_headers.get("GNU.sparse.name", member.name)
        entry = locate(member.name)
        if member.isdir():
            return
        if member.islnk():
            self._hard_link(entry, member)
        elif not member.isreg():
            kind = _KINDS.get(member.type, "of a kind that is not known here")
            self._leave_out(entry, member, f"is {kind}")
        elif isinstance(entry, Blob):
            self._blob(entry, member)
        elif isinstance(entry, Link):
            self._link(entry, member)

    def _blob(self, blob: Blob, member: tarfile.TarInfo) -> None:
        digester = hashlib.new(blob.digest.partition(":")[0])
        content = io.BytesIO() if member.size <= MAX_MANIFEST else None
        # One that is there already has been compared, and this one can only be equal.
        create = _nowhere if blob.digest in self._catalog.sizes else self._create
        try:
            with create(blob.path) as file:

                def take(data: bytes) -> None:
                    digester.update(data)
                    file.write(data)
                    if content is not None:
                        content.write(data)

                self._stream.content(member, take)
                if digester.hexdigest() != blob.digest.partition(":")[2]:
                    raise _WrongDigestError
        except _WrongDigestError:
            self._leave_out(blob, member, "is damaged: the bytes have another digest")
            return
        self._catalog.add_blob(
            blob.digest, member.size, None if content is None else content.getvalue()
        )

    def _link(self, link: Link, member: tarfile.TarInfo) -> None:
        content = io.BytesIO()
        self._stream.content(member, lambda data: _take_start(content, data))
        self._add_link(link, content.getvalue().decode("ascii", "replace"), member)

    def _add_link(self, link: Link, digest: str, member: tarfile.TarInfo) -> None:
        if not link.may_hold(digest):
            self._leave_out(link, member, "is damaged: it holds another digest than it has to")
            return
        with self._create(link.path) as file:
            file.write(digest.encode())
        self._catalog.add_link(link, digest)

    def _hard_link(self, entry: Blob | Link | None, member: tarfile.TarInfo) -> None:
        """Another name of a member before it."""
        try:
            target = locate(member.linkname)
        except BadImage:  # which is fine for something that is left out
            target = None
        if isinstance(entry, Link) and isinstance(target, Link):
            digest = self._catalog.link(target.path)
            if digest is not None:
                self._add_link(entry, digest, member)
                return
        if isinstance(entry, Blob) and isinstance(target, Blob) and entry == target:
            return
        if entry is not None:
            kind = f"is a link to {quoted(member.linkname)}, which is no such file before it"
            self._leave_out(entry, member, kind)

    def _leave_out(self, entry: Blob | Link | None, member: tarfile.TarInfo, why: str) -> None:
        line = f"left out: {quoted(member.name)}: {why}"
        if entry is not None:
            self._catalog.add_damaged(entry, f"it {why}", line)
        else:
            self._catalog.remark(line)


class _WrongDigestError(Exception):
    """The bytes of a blob are not those that its path tells."""


def _take_start(content: io.BytesIO, data: bytes) -> None:
    """Take no more than what makes a link one that is too long."""
    content.write(data[: MAX_LINK + 1 - content.tell()])
