"""An archive of a registry's storage, read from its start to its end and believed in nothing.

Nothing is read twice and nothing is held but the piece that is under way, so that the archive may
come by a pipe. A blob is compared with the digest in its path while it goes by. What a tag needs is
known at the end alone: until then, what no registry can make use of is noted and left out.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, Protocol

from kollacast.images.catalog import Catalog
from kollacast.images.compression import DAMAGED, decompressed
from kollacast.images.layout import MAX_LINK, BadImage, Blob, Link, locate, quoted
from kollacast.images.limits import Account, prove_name
from kollacast.images.manifest import MAX_MANIFEST
from kollacast.images.tar import Archive, counted

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
    account = Account()
    is_first = True
    try:
        whole = decompressed(counted(stream, account))
        start = b""
        while start or is_first:
            archive = Archive(whole, account, start)
            _Reading(archive, catalog, create or _nowhere, account).run()
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


class _Reading:
    """One archive, member by member."""

    def __init__(
        self, archive: Archive, catalog: Catalog, create: Create, account: Account
    ) -> None:
        self._archive = archive
        self._catalog = catalog
        self._create = create
        self._account = account

    def run(self) -> None:
        for member in self._archive.members():
            self._member(member)

    def _member(self, member: tarfile.TarInfo) -> None:
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
        is_here = blob.digest in self._catalog.sizes
        try:
            with _nowhere(blob.path) if is_here else self._new_file(blob.path) as file:

                def take(data: bytes) -> None:
                    digester.update(data)
                    file.write(data)
                    if content is not None:
                        content.write(data)

                self._archive.content(member, take)
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
        self._archive.content(member, lambda data: _take_start(content, data))
        self._add_link(link, content.getvalue().decode("ascii", "replace"), member)

    def _add_link(self, link: Link, digest: str, member: tarfile.TarInfo) -> None:
        if not link.may_hold(digest):
            self._leave_out(link, member, "is damaged: it holds another digest than it has to")
            return
        with self._new_file(link.path) as file:
            file.write(digest.encode())
        self._catalog.add_link(link, digest)

    def _new_file(self, path: str) -> AbstractContextManager[Writer]:
        self._account.file(path)
        return self._create(path)

    def _hard_link(self, entry: Blob | Link | None, member: tarfile.TarInfo) -> None:
        """Another name of a member before it."""
        try:
            prove_name(member.linkname)
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
