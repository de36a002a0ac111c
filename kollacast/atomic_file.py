"""A file that has its name only once it is whole and on disk; until then it has a hidden one."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kollacast.fdio import called_off


class AtomicFile:
    """A file under a temporary name in the folder of its final name.

    One thread writes and commits; any thread may abandon it at any time.
    """

    def __init__(self, path: str) -> None:
        """Create the temporary file, with the mode that the umask gives.

        A symbolic link at `path` stays, and what it points to is replaced. Raises OSError, also
        when `path` names something that is there and is no regular file.
        """
        if not os.path.basename(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self._path = os.path.realpath(path)
        try:
            mode = os.stat(self._path).st_mode
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
        folder, name = os.path.split(self._path)
        # A long final name and its decoration must fit in the 255 bytes of a name together.
        stem = os.fsdecode(os.fsencode(name)[:200])
        self._temporary_path = os.path.join(folder, f".{stem}.{os.getpid()}.part")
        try:
            self._fd = _create(self._temporary_path)
        except FileExistsError:
            # Left by a killed run: in a container every run may well have the same process id.
            self._temporary_path = os.path.join(folder, f".{stem}.{secrets.token_hex(8)}.part")
            self._fd = _create(self._temporary_path)
        self._lock = threading.Lock()
        self._in_use = False
        self._is_off = False
        self._is_committed = False

    def is_off(self) -> bool:
        """Whether the file has been abandoned."""
        return self._is_off

    @contextmanager
    def descriptor(self) -> Iterator[int]:
        """Lend the descriptor for one operation. Raises OSError (ECANCELED) when abandoned."""
        with self._lock:
            if self._is_off or self._is_committed:
                raise called_off()
            self._in_use = True
        try:
            yield self._fd
        finally:
            with self._lock:
                self._in_use = False
                if self._is_off:
                    os.close(self._fd)

    def commit(self) -> None:
        """Bring the content to disk, give the file its name, bring the name to disk.

        Raises OSError, and then the name still stands for what it stood for before.
        """
        with self.descriptor() as fd:
            os.fsync(fd)
        with self._lock:
            if self._is_off:
                raise called_off()
            os.rename(self._temporary_path, self._path)
            self._is_committed = True
            os.close(self._fd)
        _sync_folder(os.path.dirname(self._path))

    def abandon(self) -> None:
        """Remove the temporary file; nothing after `commit`. Never raises."""
        with self._lock:
            if self._is_off or self._is_committed:
                return
            self._is_off = True
            try:
                os.unlink(self._temporary_path)
            except OSError:
                pass  # its folder went away, or became read-only: nothing is left to be done
            if not self._in_use:
                os.close(self._fd)


def prove_writable(path: str) -> None:
    """Raise the OSError that a later `AtomicFile(path)` would raise; leave nothing behind."""
    AtomicFile(path).abandon()


def _create(path: str) -> int:
    """Open a file that must be new for writing, with the mode that the umask gives."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _sync_folder(folder: str) -> None:
    """Bring a folder's entries to disk, where it can be opened and the file system knows how."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # a folder that may be written but not listed
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(fd)
