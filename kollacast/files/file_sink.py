"""A sink that is a file, which appears under its name only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kollacast.files.atomic_file import AtomicFile
from kollacast.files.room import DEFAULT_RESERVE, Room
from kollacast.files.sparse import write_sparse

#: Bytes of what `stat` calls a block, whatever the file system.
_BLOCK = 512


class FileSink(AtomicFile):
    """A `Sink` that is a file under its name only after `commit`."""

    def __init__(self, path: str, reserve: float = DEFAULT_RESERVE) -> None:
        """`reserve` is the share of the file system that stays free. Raises OSError."""
        super().__init__(path)
        self._room = Room(reserve)

    @property
    def can_skip(self) -> bool:
        return self.can_mark

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        with self.descriptor() as fd:
            self._room.take(fd, sum(map(len, views)))
            write_sparse(fd, views, offset, self.is_off)

    def expect(self, size: int) -> None:
        with self.descriptor() as fd:
            has = os.fstat(fd).st_blocks * _BLOCK
            self._room.prove(fd, max(size - has, 0))

    def read_back(self, offset: int, size: int) -> bytes:
        with self.descriptor() as fd:
            return os.pread(fd, size, offset)

    def commit(self, digest: str = "") -> None:
        super().commit()
