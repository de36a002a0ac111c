"""Where the image comes from: a file or a pipe, read in blocking calls by a worker thread."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from typing import NamedTuple

from kollacast.files import fdio
from kollacast.files.path_text import path_text
from kollacast.files.source import ChangedImage

#: The null device of Linux, by its numbers: what cron and Ansible give as standard input.
_NULL_DEVICE = os.makedev(1, 3)


class FileSource:
    """A `Source` on a descriptor, which it owns from here on."""

    def __init__(self, fd: int, name: str | None) -> None:
        """Raises OSError when `fd` cannot be read as a stream of bytes: a folder, for one."""
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._name = None if name is None else path_text(name)
        self._fd = fd
        self._polled = not fdio.is_lasting(mode)
        self._size = _remaining_bytes(fd, mode)
        # What is read again is counted from where this run began.
        self._start = os.lseek(fd, 0, os.SEEK_CUR) if fdio.is_lasting(mode) else None
        self._at_first = _marks(fd)
        self._bytes_read = 0
        self._lending = fdio.Lending(self._give_back)
        fdio.enlarge_pipe(fd)
        if stat.S_ISREG(mode) and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def size(self) -> int | None:
        return self._size

    @property
    def identity(self) -> str | None:
        if self._start is None:
            return None
        return f"{self._name or ''}/{self._size}/{self._start}/{self._at_first.changed_ns}"

    def readinto(self, view: memoryview) -> int:
        with self._lending.lend():
            count = fdio.read_some(self._fd, view, self._polled, self._lending.is_off)
            self._bytes_read += count
            if self._start is not None:
                self._prove_unchanged(is_over=count == 0 and len(view) > 0)
        return count

    def read_at(self, offset: int, size: int) -> bytes:
        if self._start is None:
            raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
        with self._lending.lend():
            data = os.pread(self._fd, size, self._start + offset)
            self._prove_unchanged(is_over=False)
        return data

    def _prove_unchanged(self, *, is_over: bool) -> None:
        """Raise `ChangedImage` unless the file is what it was; call it after a read, not before.

        The time of the last change of the inode is no part of it: who replaces the file by a rename
        changes that, and what is open here stays as it is.
        """
        marks = _marks(self._fd)
        if marks.size != self._at_first.size:
            raise _changed(f"it had {self._at_first.size} bytes, and has {marks.size}")
        if marks != self._at_first:
            raise _changed("it was written to")
        if is_over and self._bytes_read != self._size:
            raise _changed(f"{self._bytes_read} bytes came, of {self._size}")

    def close(self) -> None:
        self._lending.end()

    def _give_back(self) -> None:
        # What a file system has to say at this point changes nothing about what was read.
        with suppress(OSError):
            os.close(self._fd)


class _Marks(NamedTuple):
    """What shows that a file is written to; of a block device, which has no such time, its size."""

    inode: tuple[int, int]
    size: int
    changed_ns: int


def _marks(fd: int) -> _Marks:
    found = os.fstat(fd)
    return _Marks((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)


def _changed(how: str) -> ChangedImage:
    return ChangedImage(errno.ESTALE, f"its file has changed since this run began: {how}")


def open_source(path: str | None) -> FileSource:
    """Open the file at `path`, or standard input where it is None. Raises OSError.

    A named pipe is opened without waiting for its writer; reading waits for one.
    """
    if path is None:
        fd = os.dup(0)
        name = _name_of_standard_input()
    else:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        name = os.path.basename(path)
    try:
        return FileSource(fd, name)
    except OSError:
        os.close(fd)
        raise


def prove_readable(path: str | None) -> None:
    """Raise the OSError that a later `open_source(path)`, or reading it, would raise.

    A terminal is refused as well: nobody types an image.
    """
    if path is None:
        if os.isatty(0):
            raise OSError(errno.EINVAL, "is a terminal")
        if fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            raise OSError(errno.EBADF, "is open for writing only")
    elif stat.S_ISFIFO(os.stat(path).st_mode):
        # To open it and close it again would break the pipe of a writer that waits already.
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    open_source(path).close()


def is_read_twice(path: str | None) -> bool:
    """Whether what is at `path`, or standard input for None, can be read again. Raises OSError."""
    mode = (os.fstat(0) if path is None else os.stat(path)).st_mode
    return fdio.is_lasting(mode)


def _remaining_bytes(fd: int, mode: int) -> int | None:
    """Bytes from the current offset to the end of a file or block device, else None."""
    if stat.S_ISCHR(mode) and os.fstat(fd).st_rdev == _NULL_DEVICE:
        return 0
    if not fdio.is_lasting(mode):
        return None
    here = os.lseek(fd, 0, os.SEEK_CUR)
    end = os.lseek(fd, 0, os.SEEK_END)
    os.lseek(fd, here, os.SEEK_SET)
    return max(0, end - here)


def _name_of_standard_input() -> str | None:
    """File name behind a redirected standard input, where the system can tell."""
    with suppress(OSError):
        path = os.readlink("/proc/self/fd/0")
        if stat.S_ISREG(os.fstat(0).st_mode) and os.path.samestat(os.stat(path), os.fstat(0)):
            return os.path.basename(path)
    return None
