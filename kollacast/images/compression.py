"""Compression of image files: gzip, zstd or none; a reader finds out by the first bytes."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from typing import BinaryIO, cast

import zstandard

METHODS = ("gzip", "zstd", "none")

#: What a reader of :func:`decompressed` may raise for what is damaged or cut short.
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)

_GZIP = b"\x1f\x8b"  # RFC 1952
_ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878
#: Layers in a registry are compressed already: more effort would be for nothing.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 1


class _WithStart(io.RawIOBase):
    """A stream whose first bytes have been read already."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start = start
        self._rest = rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._start and size:
            end = size if size > 0 else len(self._start)
            data, self._start = self._start[:end], self._start[end:]
            return data
        return self._rest.read(size)


def decompressed(stream: BinaryIO) -> BinaryIO:
    """What `stream`, which may return less than it is asked for, holds once decompressed.

    Reading from it raises OSError, and one of `DAMAGED`.
    """
    start = b""
    while len(start) < len(_ZSTD) and (more := stream.read(len(_ZSTD) - len(start))):
        start += more
    whole = cast(BinaryIO, _WithStart(start, stream))
    if start.startswith(_GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=whole, mode="rb"))
    if start == _ZSTD:
        # Up to 128 MiB of window, the limit of zstd's own programs.
        reader = zstandard.ZstdDecompressor().stream_reader(whole, read_across_frames=True)
        return cast(BinaryIO, reader)
    return whole


def compressed(file: BinaryIO, method: str) -> BinaryIO:
    """A stream that writes to `file`; closing it ends the compression, and may close `file`.

    The same bytes always give the same file.
    """
    if method == "gzip":
        stream = gzip.GzipFile("", "wb", _GZIP_LEVEL, fileobj=file, mtime=0)
        return cast(BinaryIO, stream)
    if method == "zstd":
        # What comes out depends on whether there are threads, and not on how many.
        compressor = zstandard.ZstdCompressor(
            level=_ZSTD_LEVEL, threads=os.cpu_count() or 1, write_checksum=True
        )
        return cast(BinaryIO, compressor.stream_writer(file))
    return file
