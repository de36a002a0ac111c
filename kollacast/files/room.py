"""How much of a file system may be taken: a share of it stays free for whom else it is there.

A disk that is full to the last block takes down more than one run: logs, databases, containers.
"""

from __future__ import annotations

import errno
import os

#: The share of a file system that stays free unless an operator says another one.
DEFAULT_RESERVE = 0.05
#: How much is written, or made, between two looks.
_LOOK_BYTES = 16 * 1024 * 1024
_LOOK_FILES = 256


class Room:
    """What may be taken of a file system beside the reserve, which is a share of it from 0 to 1.

    Where a file system does not say how large it is, and with a reserve of 0, there is room.
    """

    def __init__(self, reserve: float = DEFAULT_RESERVE) -> None:
        self._reserve = reserve
        self._bytes = 0
        self._files = 0

    def prove(self, fd: int, size: int) -> None:
        """Raise OSError (ENOSPC) where there is no room for so many bytes, or for a file.

        `fd` is open on the file system.
        """
        if not self._reserve:
            return
        found = os.fstatvfs(fd)
        spare = min(found.f_bavail, found.f_bfree - self._reserve * found.f_blocks)
        free = max(int(spare), 0) * found.f_frsize
        if found.f_blocks and (size > free or not free):
            raise self._no_room(f"{size} bytes are to come, and {free} are free beside the")
        if found.f_files and found.f_ffree < self._reserve * found.f_files:
            raise self._no_room(f"{found.f_ffree} more files can be made, which is less than the")

    def take(self, fd: int, size: int, files: int = 0) -> None:
        """So many bytes are about to be written, and files to be made. Raises OSError (ENOSPC)."""
        self._bytes += size
        self._files += files
        if self._bytes >= _LOOK_BYTES or self._files >= _LOOK_FILES:
            self.prove(fd, self._bytes)
            self._bytes = self._files = 0

    def _no_room(self, why: str) -> OSError:
        kept = f"{self._reserve * 100:g} % of the file system that stay so (--reserve)"
        return OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {why} {kept}")
