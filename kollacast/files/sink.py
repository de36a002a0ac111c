"""Where the image goes: a file that appears only when whole, or a stream such as a pipe."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Sequence
from typing import Protocol

from twisted.logger import Logger

from kollacast.files import fdio
from kollacast.files.atomic_file import AtomicFile
from kollacast.files.sparse import write_sparse

_log = Logger()

#: What a pipe, a socket or a terminal answers to fsync(2).
_NOTHING_TO_SYNC = (errno.EINVAL, errno.EROFS, errno.ENOTSUP)


class Sink(Protocol):
    """Takes an image from its start to its end."""

    @property
    def can_skip(self) -> bool:
        """Whether a `write` may leave a gap before it. Asked after `resume`."""

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        """Write every byte of `views` in order, the first one at `offset` of the image.

        Where the sink cannot skip, `offset` is where the last write has ended. Blocks, so a
        worker thread calls it. Raises OSError, BrokenPipeError among them.
        """

    def mark(self, size: int | None) -> None:
        """Only the first `size` bytes count for a later run, or all for None.

        Where the sink can skip: to be called before the first gap, and when it is closed. Blocks.
        Raises OSError.
        """

    def commit(self, digest: str = "") -> None:
        """The image is whole and verified: bring it to disk, under its name. Raises OSError.

        `digest` is the image's, as in "sha256:2c26b4…", for a sink that makes a note of it.
        """

    def resume(self, identity: str, unit: int) -> int:
        """Take up what an earlier run has kept of the image called `identity`, if anything.

        Returns how many bytes of the image are there already, a multiple of `unit`: the next
        `write` goes on behind them. Blocks. Raises OSError.
        """

    def read_back(self, offset: int, size: int) -> bytes:
        """`size` bytes that are there already. Blocks. Raises OSError."""

    def restart(self) -> None:
        """The image begins anew: forget what was written. Blocks. Raises OSError if it cannot."""

    def abandon(self, keep: bool = False) -> None:
        """The image will not be whole: leave no file behind. Never raises; nothing after `commit`.

        With `keep`, what is there stays for a later run to `resume`, where that is possible.
        Any thread may call it at any time, and more than once. A `write` that waits in another
        thread raises OSError (ECANCELED) within a moment.
        """


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


class OneWay:
    """What a `Sink` has in common with others where what is written stays written."""

    can_skip = False

    def mark(self, size: int | None) -> None:
        raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))

    def resume(self, identity: str, unit: int) -> int:
        return 0

    def read_back(self, offset: int, size: int) -> bytes:
        raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))


class StreamSink(OneWay):
    """A `Sink` on a descriptor, which it owns from here on; what is written stays written."""

    def __init__(self, fd: int) -> None:
        """Raises OSError when `fd` is not open."""
        self._is_lasting = fdio.never_blocks_for_long(fd)
        self._polled = not self._is_lasting
        fdio.enlarge_pipe(fd)
        self._fd = _with_a_mode_of_its_own(fd)
        self._lock = threading.Lock()
        self._in_use = False
        self._closed = False
        self._is_empty = True

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        with self._lock:
            if self._closed:
                raise fdio.called_off()
            self._in_use = True
            self._is_empty = False
        try:
            fdio.write_all(self._fd, views, self._polled, lambda: self._closed)
        finally:
            with self._lock:
                self._in_use = False
                if self._closed:
                    os.close(self._fd)

    def commit(self, digest: str = "") -> None:
        with self._lock:
            if self._closed:
                raise fdio.called_off()
            self._closed = True
        try:
            # `> image` is a file too, and `> /dev/vdb` a disk: "whole" then means that it is there.
            os.fsync(self._fd)
        except OSError as error:
            if self._is_lasting or error.errno not in _NOTHING_TO_SYNC:
                raise
            _log.info(
                "standard output is no file and no disk: whether the image is on a disk, only who"
                " reads it can tell"
            )
        finally:
            # A network file system may say only now that something is not there.
            os.close(self._fd)

    def restart(self) -> None:
        if not self._is_empty:
            raise OSError(errno.ESPIPE, "what is written to a stream stays written")

    def abandon(self, keep: bool = False) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not self._in_use:
                os.close(self._fd)


def _with_a_mode_of_its_own(fd: int) -> int:
    """Swap a pipe's descriptor for a non-blocking one that shares that mode with nobody.

    Setting the mode on the inherited one would set it for the parent process as well.
    """
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return fd
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return fd  # no /proc, another user's pipe, or a reader already gone: writing will tell
    os.close(fd)
    return own
