"""Memory that has been touched before, held between transfers and released just before each.

On a virtual machine the first touch of a page costs several times the second one: the host has to
find it. And a page that lies free for some seconds may go back to the host (a balloon that reports
free pages), so that warming up once is not enough: writing 4 copies of 1 GiB would take any tool 15
seconds at one time and 2 at another. So files keep the memory: filler at first, afterwards the
copies of the transfer before; they are deleted at the moment when the clock starts.
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.machine import available_memory_bytes

_PART_BYTES = 128 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
#: Released beyond what the copies need: buffers, page tables, the processes themselves.
_MARGIN_BYTES = 256 * 1024 * 1024
#: Never held: what the machine needs to go on.
_SPARE_BYTES = 1024 * 1024 * 1024


class Ballast:
    """Holds up to `size` bytes in files of its own in `folder`, which it makes."""

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir()
        self._folder = folder
        self._size = size
        self._parts: list[tuple[Path, int]] = []
        self._number = 0

    @property
    def held(self) -> int:
        """Bytes held now."""
        return sum(size for _, size in self._parts)

    def fill(self) -> None:
        """Write filler until the full size is held, or memory runs short."""
        chunk = os.urandom(_CHUNK_BYTES)
        room = min(self._size - self.held, available_memory_bytes() - _SPARE_BYTES)
        while room > 0:
            size = min(_PART_BYTES, room)
            path = self._next_path()
            with path.open("wb") as file:
                for start in range(0, size, _CHUNK_BYTES):
                    file.write(chunk[: size - start])
            self._parts.append((path, size))
            room -= size

    def take(self, files: list[Path]) -> None:
        """Hold the memory of these files, which lie on the same file system, instead of filler."""
        for file in files:
            if file.is_file():
                path = file.rename(self._next_path())
                self._parts.append((path, path.stat().st_size))
        while self._parts and self.held - self._parts[0][1] >= self._size:
            self._drop()

    def release(self, size: int) -> None:
        """Free at least `size` bytes and a margin, or all that is held."""
        until = self.held - size - _MARGIN_BYTES
        while self._parts and self.held > until:
            self._drop()

    def _drop(self) -> None:
        path, _ = self._parts.pop(0)
        path.unlink()

    def _next_path(self) -> Path:
        self._number += 1
        return self._folder / str(self._number)
