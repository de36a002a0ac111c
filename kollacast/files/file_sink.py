"""A sink that is a file, which appears under its name only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kollacast.files.atomic_file import AtomicFile
from kollacast.files.sparse import write_sparse


class FileSink(AtomicFile):
    """A `Sink` that is a file under its name only after `commit`."""

    @property
    def can_skip(self) -> bool:
        return self.can_mark

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        with self.descriptor() as fd:
            write_sparse(fd, views, offset, self.is_off)

    def read_back(self, offset: int, size: int) -> bytes:
        with self.descriptor() as fd:
            return os.pread(fd, size, offset)

    def commit(self, digest: str = "") -> None:
        super().commit()
