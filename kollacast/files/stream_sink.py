"""A sink that is a stream, such as a pipe: what is written stays written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from twisted.logger import Logger

from kollacast.files import fdio
from kollacast.files.sink import OneWay

_log = Logger()

#: What a pipe, a socket or a terminal answers to fsync(2).
_NOTHING_TO_SYNC = (errno.EINVAL, errno.EROFS, errno.ENOTSUP)


class StreamSink(OneWay):
    """A `Sink` on a descriptor, which it owns from here on; what is written stays written."""

    def __init__(self, fd: int) -> None:
        """Raises OSError when `fd` is not open."""
        self._is_lasting = fdio.is_lasting(os.fstat(fd).st_mode)
        fdio.enlarge_pipe(fd)
        self._fd = _with_a_mode_of_its_own(fd)
        self._lending = fdio.Lending(lambda: os.close(self._fd))
        self._is_empty = True

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        with self._lending.lend():
            self._is_empty = False
            fdio.write_all(self._fd, views, not self._is_lasting, self._lending.is_off)

    def commit(self, digest: str = "") -> None:
        try:
            # `> image` is a file too, and `> /dev/vdb` a disk: "whole" then means that it is there.
            with self._lending.lend():
                os.fsync(self._fd)
        except OSError as error:
            if self._is_lasting or error.errno not in _NOTHING_TO_SYNC:
                raise
            _log.info(
                "standard output is no file and no disk: whether the image is on a disk, only who"
                " reads it can tell",
                event="output-not-synced",
            )
        finally:
            # A network file system may say only now that something is not there.
            self._lending.end()

    def restart(self) -> None:
        if not self._is_empty:
            raise OSError(errno.ESPIPE, "what is written to a stream stays written")

    def abandon(self, keep: bool = False) -> None:
        self._lending.end()


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
