"""A tar archive read from its start to its end, with bounds on what describes its members.

tarfile reads the headers. It believes in sizes and lengths, and keeps what it has read; here it is
given no more than any real archive has.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from kollacast.images.layout import BadImage, quoted
from kollacast.images.limits import Account, prove_extended_header

#: Bytes that are read, digested and written in one go.
PIECE = 1024 * 1024
#: Bytes of what describes one member, such as a long name; and of all of them, for one member.
_MAX_HEADER = 64 * 1024
_MAX_HEADERS = 256 * 1024
#: Records that hold for all members behind them, of all global headers of an archive.
_MAX_GLOBAL = 100
#: Where the type of a member stands in its header, and the types of pax headers.
_TYPE = 156
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
#: Bytes that a member may have without their being in the archive (GNU tar's ``--sparse``).
_MAX_HOLES = 64 * 1024**3
_ZEROS = bytes(PIECE)


def counted(stream: BinaryIO, account: Account) -> BinaryIO:
    """The same stream, of which `account` is told how much has come."""
    return cast(BinaryIO, _Counted(stream, account))


class Archive:
    """One archive in a stream, which may return less than it is asked for.

    Its methods raise BadImage, tarfile's errors, ValueError and its like, and what reading raises.
    """

    def __init__(
        self, stream: BinaryIO, account: Account, start: bytes = b"", *, skips: bool = False
    ) -> None:
        """`start` comes before what is in `stream`; `account` is told of all that is in it.

        With `skips`, `stream` is a file, of which nothing is read but what is asked for.
        """
        self._account = account
        self._forward = _Forward(stream, start, account, skips)

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Each member, whose :meth:`content` is to be had until the next one is asked for."""
        forward = self._forward
        with tarfile.TarFile(fileobj=cast(BinaryIO, forward), errors="replace") as archive:
            while (member := archive.next()) is not None:
                # It would keep every one.
                archive.members.clear()  # type: ignore[attr-defined]
                if len(archive.pax_headers) > _MAX_GLOBAL:
                    raise BadImage(f"it has more than {_MAX_GLOBAL} records for all its members")
                forward.begin_member()
                # tarfile prefers the one that is made up for programs without such members.
                member.name = member.pax_headers.get("GNU.sparse.name", member.name)
                self._account.member(member.name)
                yield member
        if not forward.ended_well:
            raise BadImage("it is cut short: the end of the archive is missing")

    def content(self, member: tarfile.TarInfo, take: Callable[[bytes], object]) -> None:
        """Hand all bytes of the last `member` to `take`, piece by piece."""
        self._forward.content(member, take)

    def drain(self) -> bytes:
        """Read on to the end, where the compression has its checksum; or to another archive.

        Returns the start of that one.
        """
        return self._forward.drain()


class _Counted(io.RawIOBase):
    """A stream that notes how much has come."""

    def __init__(self, stream: BinaryIO, account: Account) -> None:
        self._stream = stream
        self._account = account

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._account.bytes_in += len(data)
        return data


class _Forward:
    """A stream that knows where it is, and seeks by reading: what tarfile needs for headers."""

    def __init__(self, stream: BinaryIO, start: bytes, account: Account, skips: bool) -> None:
        self._account = account
        self._skips = skips
        self._is_extended = False  # whether the header that was read last is one of pax
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
        if self._is_extended:
            prove_extended_header(self._last)
        self._is_extended = _is_extended_header(self._last)
        return self._last

    def seek(self, to: int) -> None:
        if to < self._at:
            raise BadImage("it has a member of less than no bytes")
        if self._skips:
            self._stream.seek(to - self._at, io.SEEK_CUR)
            self._at = to
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
                zeros = _ZEROS[: hole - start]
                self._account.content(len(zeros))
                take(zeros)
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
        data = self._start.read(size) or self._stream.read(size)
        self._account.content(len(data))
        return data


def _is_extended_header(block: bytes) -> bool:
    """Whether what comes next are records of pax; for a long name that looks so, the sum tells."""
    if block[_TYPE : _TYPE + 1] not in _EXTENDED:
        return False
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.TarError:
        return False
    return True
