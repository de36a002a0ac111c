"""A file that has its name only once it is whole and on disk.

Until then it has no name at all, and so it is gone however the process ends; or a hidden one, for a
later run to go on from, and where the file system has no files without a name. Names are looked up
in the open folder, so that nobody can exchange what is on the way to it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kollacast.files import trusted_path
from kollacast.files.fdio import Lending

_DESCRIPTORS = "/proc/self/fd"

#: The extended attribute that says how much of a file with gaps counts.
_MARK = "user.kollacast.head"


class AtomicFile:
    """A file in the folder of its final name.

    One thread writes and commits; any thread may abandon it at any time.
    """

    def __init__(self, path: str) -> None:
        """Create the file, with the mode that the umask gives.

        A symbolic link at `path` stays, and what it points to is replaced. Raises OSError, also
        when `path` names something that is there and is no regular file, or is a stranger's link
        or, in a folder where all may write, a stranger's file.
        """
        if os.path.basename(path) in ("", ".", ".."):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self._folder, self._name = trusted_path.open_parent(path)
        try:
            self._prove_replaceable()
            # A long final name and its decoration must fit in the 255 bytes of a name together.
            self._stem = f".{os.fsdecode(os.fsencode(self._name)[:200])}"
            self._is_kept = False
            #: The hidden name, None while there is none.
            self._temporary: str | None = None
            fd = _create_nameless(self._folder)
            if fd is None:
                self._temporary = self._new_name()
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                fd = os.open(self._temporary, flags, 0o666, dir_fd=self._folder)
        except OSError as error:
            os.close(self._folder)
            error.filename = path
            raise
        self._fd = fd
        self._lending = Lending(self._close)
        #: Whether the file has been abandoned, or committed.
        self.is_off = self._lending.is_off
        #: Whether :meth:`mark` works here; known after :meth:`resume`.
        self.can_mark = False

    def _prove_replaceable(self) -> None:
        """Raise OSError where the final name is that of something else than a file."""
        trusted_path.prove_own(self._folder, self._name)
        try:
            mode = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")

    def _close(self) -> None:
        os.close(self._fd)
        os.close(self._folder)

    @contextmanager
    def descriptor(self) -> Iterator[int]:
        """Lend the descriptor for one operation. Raises OSError (ECANCELED) when abandoned."""
        with self._lending.lend():
            yield self._fd

    def resume(self, identity: str, unit: int) -> int:
        """Go on with what an earlier run has kept of the content called `identity`.

        `identity` is up to 64 hexadecimal digits. What is kept of other contents is removed, in
        this file too. Returns how many bytes are there, a multiple of `unit`; writing goes on
        behind them. From now on :meth:`abandon` can keep them for a later run. May be called
        again. Raises OSError.
        """
        name = f"{self._stem}.{identity}-kept.part"
        with self._lending.lend():
            self._remove_others(name)
        with self._lending.lock:
            self._lending.prove()
            if self._is_kept and name == self._temporary:
                return self._go_on(unit)
            self._is_kept = self.can_mark = False
            fd = _open_kept(self._folder, name)
            if fd is None:
                # What this run may have written is of another content.
                os.ftruncate(self._fd, 0)
                os.lseek(self._fd, 0, os.SEEK_SET)
                try:
                    # Under a lock before it has the name that other runs look for.
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _link(self._fd, self._folder, name)
                except OSError:
                    return 0  # of a run that goes on, or on a file system without links or locks
                self._forget_name()
            else:
                self._forget_name()
                os.close(self._fd)
                self._fd = fd
            self._temporary = name
            self._is_kept = True
            return self._go_on(unit)

    def _go_on(self, unit: int) -> int:
        """Write behind what is there in whole units from now on; returns how much that is."""
        size = self._head() // unit * unit
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, size, os.SEEK_SET)
        self.can_mark = self._set_mark(size) and self._set_mark(None)
        return size

    def mark(self, size: int | None) -> None:
        """Only the first `size` bytes count for a later run, or all for None.

        It holds from now on, however this process ends. Only where :attr:`can_mark`. Raises
        OSError.
        """
        with self.descriptor():
            if not self._set_mark(size):
                raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    def restart(self) -> None:
        """Begin again with nothing in the file, of a content that nobody has named yet.

        No later run goes on from it before :meth:`resume` has been called again. Raises OSError.
        """
        with self.descriptor() as fd:
            self._disown()
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            self._set_mark(None)

    def commit(self) -> None:
        """Bring the content to disk, give the file its name, bring the name to disk.

        Raises OSError, and then the name still stands for what it stood for before.
        """
        with self._lending.lend():
            os.fsync(self._fd)
            with self._lending.lock:
                self._lending.prove()
                before = self._give_name()
                self._lending.end()
            try:
                sync_folder(self._folder)
            except OSError:
                self._take_name_back(before)
                raise
            self._remove(before)

    def abandon(self, keep: bool = False) -> None:
        """Remove the temporary file; nothing after `commit`. Never raises.

        With `keep` it stays for a run that resumes it, unless there is nothing in it.
        """
        with self._lending.lock:
            if self._lending.is_off():
                return
            try:
                if not (keep and self._is_kept and self._head()):
                    self._forget_name()
            except OSError:
                pass  # its folder went away, or became read-only: nothing is left to be done
            self._lending.end()

    def _give_name(self) -> str | None:
        """Returns a hidden name of what had this one before, None where nothing had."""
        if self._temporary is None:
            try:
                _link(self._fd, self._folder, self._name)
                return None
            except FileExistsError:
                # Only a rename takes the place of another file.
                temporary = self._new_name()
                _link(self._fd, self._folder, temporary)
                self._temporary = temporary
        before: str | None = self._new_kept_name()
        folders = {"src_dir_fd": self._folder, "dst_dir_fd": self._folder}
        try:
            os.link(self._name, str(before), follow_symlinks=False, **folders)
        except FileNotFoundError:
            before = None
        except OSError:
            pass  # a file system without links: what was there before cannot come back
        try:
            os.rename(self._temporary, self._name, **folders)
        except OSError:
            self._remove(before)
            raise
        return before

    def _remove(self, name: str | None) -> None:
        """Remove a hidden name of what is there under another one, if it is there."""
        if name is not None:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder)

    def _take_name_back(self, before: str | None) -> None:
        """Have the name stand for what it stood for, as far as the file system still can."""
        with suppress(OSError):
            if before is None:
                os.unlink(self._name, dir_fd=self._folder)
            else:
                os.rename(before, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _disown(self) -> None:
        """A name that is kept is that of another content: have one that no run goes on from.

        The next run removes it. Raises OSError.
        """
        with self._lending.lock:
            if self._is_kept and self._temporary is not None:
                name, folder = self._new_kept_name(), self._folder
                os.rename(self._temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                self._temporary = name
            self._is_kept = self.can_mark = False

    def _new_name(self) -> str:
        """A hidden name that nobody has: in a container every run may have the same process id."""
        return f"{self._stem}.{secrets.token_hex(8)}.part"

    def _new_kept_name(self) -> str:
        """Likewise, and the next run removes what has it."""
        return f"{self._stem}.{secrets.token_hex(8)}-kept.part"

    def _forget_name(self) -> None:
        """Take the hidden name away, where there is one. Raises OSError."""
        name, self._temporary = self._temporary, None
        if name is not None:
            os.unlink(name, dir_fd=self._folder)

    def _head(self) -> int:
        """How many bytes from the start on count."""
        size = os.fstat(self._fd).st_size
        try:
            return min(size, int(os.getxattr(self._fd, _MARK)))
        except (OSError, AttributeError):
            return size
        except ValueError:
            return 0

    def _set_mark(self, size: int | None) -> bool:
        """False on a file system without extended attributes."""
        try:
            if size is not None:
                os.setxattr(self._fd, _MARK, b"%d" % size)
            elif _MARK in os.listxattr(self._fd):
                os.removexattr(self._fd, _MARK)
        except (OSError, AttributeError):
            return False
        return True

    def _remove_others(self, name: str) -> None:
        """Remove what earlier runs have kept of other contents, unless it is in use."""
        pattern = re.compile(re.escape(self._stem) + r"\.[0-9a-f]*-kept\.part")
        try:
            names = _names_in(self._folder)
        except OSError:
            return  # a folder that may be written but not listed
        for other in names:
            if pattern.fullmatch(other) and other != name:
                fd = _open_kept(self._folder, other)
                if fd is not None:
                    os.unlink(other, dir_fd=self._folder)
                    os.close(fd)


def _open_kept(folder: int, name: str) -> int | None:
    """Open and lock a file that an earlier run of this user has kept; None where there is none.

    Who may write in the folder may have made it another name of any file of this user's.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(name, flags, dir_fd=folder)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(fd)
        is_own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        is_there = os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), found)
        if is_own and is_there and found.st_nlink == 1:
            return fd
    except OSError:
        pass  # in use, or gone in this moment
    os.close(fd)
    return None


def prove_writable(path: str) -> None:
    """Raise the OSError that a later `AtomicFile(path)` would raise; leave nothing behind."""
    AtomicFile(path).abandon()


def _create_nameless(folder: int) -> int | None:
    """Open a new file without a name; None where there is no such thing, or no way to name it."""
    try:
        fd = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666, dir_fd=folder)
    except (AttributeError, OSError):
        return None  # what else is wrong with the folder shows when a file gets a name in it
    if os.path.exists(f"{_DESCRIPTORS}/{fd}"):
        return fd
    os.close(fd)
    return None


def _link(fd: int, folder: int, name: str) -> None:
    """Give the open file `fd` one more name, or its first. Raises OSError: FileExistsError, too."""
    descriptors = os.open(_DESCRIPTORS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # What stands there is a symbolic link, which is followed only beside a folder's descriptor.
        os.link(str(fd), name, src_dir_fd=descriptors, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(descriptors)


def _names_in(folder: int) -> list[str]:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def sync_folder(folder: int) -> None:
    """Bring an open folder's entries to disk, where the file system knows how. Raises OSError."""
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return  # a folder that may be written but not listed
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(fd)
