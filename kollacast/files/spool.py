"""A copy of what a pipe has brought, so that it can be read again: bounded, and without a name."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from contextlib import suppress
from io import FileIO

from kollacast.files import trusted_path


class Spool:
    """Keeps the first bytes of a stream, as long as there are no more than a limit.

    One thread writes and any reads. It is on disk in `folder`, and gone with the process.
    """

    def __init__(self, folder: str, limit_bytes: int) -> None:
        """Raises OSError when no file can be made in `folder`."""
        self._file = _nameless_in(folder)
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._size = 0
        #: Why nothing can be read from it any more; None as long as all can.
        self.broken: str | None = None

    def write(self, data: memoryview) -> None:
        """Keep `data` behind all that came before. Never raises: a spool may break."""
        with self._lock:
            if self.broken is not None:
                return
            if self._size + len(data) > self._limit_bytes:
                self._break(f"the spool holds {self._limit_bytes} bytes, and the image has more")
                return
            try:
                self._size += len(data)
                while data:
                    data = data[os.write(self._file.fileno(), data) :]
            except OSError as error:
                self._break(f"the spool cannot be written: {error.strerror}")

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset` on. Raises OSError."""
        with self._lock:
            if self.broken is not None:
                raise OSError(errno.ENODATA, self.broken)
            return os.pread(self._file.fileno(), size, offset)

    def close(self) -> None:
        """Give the space back."""
        with self._lock:
            self._break(self.broken or "the spool is closed")

    def _break(self, reason: str) -> None:
        self.broken = reason
        # A network file system may say only now that something is not there: nobody reads it.
        with suppress(OSError):
            self._file.close()


def prove_spool(folder: str) -> None:
    """Raise the OSError that a later `Spool(folder, ...)` would raise; leave nothing behind."""
    _nameless_in(folder).close()


def _nameless_in(folder: str) -> FileIO:
    """A new file without a name in `folder`, which no stranger's link leads to. Raises OSError."""
    fd = trusted_path.open_folder(folder)
    try:
        # Unbuffered: what is written is to be read through the descriptor.
        return tempfile.TemporaryFile(prefix=".kollacast.", dir=f"/proc/self/fd/{fd}", buffering=0)
    except OSError as error:
        error.filename = folder
        raise
    finally:
        os.close(fd)
