"""Compression of image files: gzip, zstd or none; a reader finds out by the first bytes.

What other programs begin their files with is known only to be refused by name.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import zstandard

from kollacast.images.layout import BadImage

METHODS = ("gzip", "zstd", "none")

#: What a reader of :func:`decompressed` may raise for what is damaged or cut short.
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)

_GZIP = b"\x1f\x8b"  # RFC 1952
#: RFC 8878: a frame, and a skippable one, as pzstd puts before each of its own.
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16)))
#: What is not read, by the program that makes it; the numbers are those that file(1) knows.
_OTHERS = {
    b"\xfd7zXZ\x00": "xz",
    # for each size of a block: the first one, or the end
    **{b"BZh%d" % n + block: "bzip2" for n in range(1, 10) for block in (b"1AY", b"\x17rE")},
    b"\x04\x22\x4d\x18": "lz4",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x5d\x00\x00": "lzma",
    b"LZIP\x01": "lzip",
    b"\x89LZO\x00": "lzop",
    b"\x1f\x9d": "compress",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
#: Bytes that tell them all apart.
START = max(map(len, _OTHERS))
#: Bytes of window that zstd's own programs take without being asked to, and their word for more.
_ZSTD_WINDOW = 128 * 1024 * 1024
_ZSTD_TOO_LARGE = "requires too much memory"
#: Layers in a registry are compressed already: more effort would be for nothing.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 1


def is_compressed(start: bytes) -> bool:
    """Whether what has these first `START` bytes is compressed, and can be decompressed.

    Raises BadImage when it is compressed in another way.
    """
    for magic, program in _OTHERS.items():
        if start.startswith(magic):
            raise BadImage(f"it is compressed by {program}, and only gzip and zstd are read")
    return start.startswith((_GZIP, *_ZSTD))


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Within it, what is wrong with the content of the file `path` is a BadImage that names it."""
    try:
        yield
    except DAMAGED as error:
        raise BadImage(f"{path}: it is damaged or cut short: {error}") from None
    except BadImage as error:
        raise BadImage(f"{path}: {error.strerror}") from None


class _Chain(io.RawIOBase):
    """Streams that are read one behind the other, as one."""

    def __init__(self, *streams: BinaryIO) -> None:
        self._streams = streams

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        for stream in self._streams:
            if data := stream.read(size):
                return data
        return b""


class _Zstd(io.RawIOBase):
    """What zstd frames hold; skippable ones hold nothing.

    The library does not say when the last frame is cut short. So one more frame is put behind the
    end, and what is in it has to come out last.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._last = os.urandom(16)
        end = io.BytesIO(zstandard.ZstdCompressor().compress(self._last))
        whole = _Chain(stream, end)
        self._reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(
            cast(BinaryIO, whole), read_across_frames=True
        )
        self._held = b""  # the last bytes that have come

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size and (data := self._decompressed(size)):
            data = self._held + data
            self._held = data[-len(self._last) :]
            if len(data) > len(self._last):
                return data[: -len(self._last)]
        if size and self._held != self._last:
            raise EOFError("the end of the last frame is missing")
        return b""

    def _decompressed(self, size: int) -> bytes:
        try:
            return self._reader.read(size)
        except zstandard.ZstdError as error:
            if _ZSTD_TOO_LARGE not in str(error):
                raise
            raise BadImage(
                "it needs more memory to be decompressed than the"
                f" {_ZSTD_WINDOW // 2**20} MiB that are allowed: compress it with --long=27 at the"
                " most"
            ) from None


def decompressed(stream: BinaryIO) -> BinaryIO:
    """What `stream`, which may return less than it is asked for, holds once decompressed.

    Raises OSError, and BadImage for a compression that is not read. Reading from the result raises
    OSError, one of `DAMAGED`, and BadImage for what takes too much memory.
    """
    start = b""
    while len(start) < START and (more := stream.read(START - len(start))):
        start += more
    whole = cast(BinaryIO, _Chain(io.BytesIO(start), stream))
    if not is_compressed(start):
        return whole
    if start.startswith(_GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=whole, mode="rb"))
    return cast(BinaryIO, _Zstd(whole))


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
