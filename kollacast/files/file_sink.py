"""A sink that is a file, which appears under its name only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Sequence

from kollacast.files.atomic_file import AtomicFile
from kollacast.files.sparse import write_sparse


class FileSink:
    """A `Sink` that is a file under its name only after `commit`."""

    def __init__(self, path: str) -> None:
        """Create the temporary file beside `path`. Raises OSError."""
        self._file = AtomicFile(path)

    @property
    def can_skip(self) -> bool:
        return self._file.can_mark

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        with self._file.descriptor() as fd:
            write_sparse(fd, views, offset, self._file.is_off)

    def mark(self, size: int | None) -> None:
        self._file.mark(size)

    def resume(self, identity: str, unit: int) -> int:
        return self._file.resume(identity, unit)

    def read_back(self, offset: int, size: int) -> bytes:
        with self._file.descriptor() as fd:
            return os.pread(fd, size, offset)

    def restart(self) -> None:
        self._file.restart()

    def commit(self, digest: str = "") -> None:
        self._file.commit()

    def abandon(self, keep: bool = False) -> None:
        self._file.abandon(keep)
