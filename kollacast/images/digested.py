"""A stream that is read for something else, and whose digests are known behind it."""

from __future__ import annotations

from typing import BinaryIO, cast

from kollacast.files.digest import Digester


def digested(stream: BinaryIO, digester: Digester) -> BinaryIO:
    """The same stream to be read, of which `digester` is told all that has come."""
    return cast(BinaryIO, _Digested(stream, digester))


class _Digested:
    def __init__(self, stream: BinaryIO, digester: Digester) -> None:
        self._stream = stream
        self._digester = digester

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        if data:
            self._digester.update([memoryview(data)])
        return data
