"""Paths that are written to, opened component by component, and never through a stranger's link.

Who may write where root writes could else have root write elsewhere: to ``/tmp/report.json``, which
is a symbolic link to ``/etc/passwd``. The rule is that of the kernel's ``fs.protected_symlinks``,
which not every system has switched on, and a little more: another user's link is followed neither
in the place of the file or folder that is named, nor in a folder where all may write.

Descriptors and not paths are what is gone on with: no component can be exchanged behind the look.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque

#: Symbolic links in one path, at the most, as the kernel has it.
_MOST_LINKS = 40
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def open_parent(path: str) -> tuple[int, str]:
    """The folder that `path` leads to a name in, opened to look things up in it, and that name.

    There is no symbolic link of that name. The name is "." where `path` can only be a folder. The
    descriptor is the caller's. Raises OSError, with `path` as its file.
    """
    try:
        return _walk(path)
    except OSError as error:
        error.filename, error.filename2 = path, None
        raise


def open_folder(path: str) -> int:
    """The folder at `path`, opened to be read and synced. Raises OSError, likewise.

    Also where another user has made it in a folder where all may write.
    """
    parent, name = open_parent(path)
    try:
        prove_own(parent, name)
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(parent)


def prove_own(folder: int, name: str) -> None:
    """Raise OSError where a stranger has put what is called `name` there; not where nothing is.

    A stranger is another user than this one and root, and puts things where all may write.
    """
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if name != "." and is_strange(found) and _is_for_all(folder):
        reason = f"is another user's ({found.st_uid}), in a folder where all may write"
        raise OSError(errno.EPERM, reason, name)


def is_strange(found: os.stat_result) -> bool:
    """Whether this belongs to neither this user nor root."""
    return found.st_uid not in (0, os.geteuid())


def _walk(path: str) -> tuple[int, str]:
    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    left = deque(path.split("/"))
    folder = os.open("/" if path.startswith("/") else ".", _LOOK | os.O_DIRECTORY)
    links = 0
    try:
        while left:
            part = left.popleft()
            if part in ("", "."):
                continue
            is_last = all(other in ("", ".") for other in left)
            target = None if part == ".." else _target(folder, part, is_last)
            if target is not None:
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                left = deque((*target.split("/"), *left))
                if target.startswith("/"):
                    folder = _replace(folder, "/")
            elif is_last and part != "..":
                return folder, part
            else:
                folder = _replace(folder, part)
        return folder, "."
    except BaseException:
        os.close(folder)
        raise


def _replace(folder: int, part: str) -> int:
    """Go on in the folder `part` of `folder`, which is closed then. Raises OSError: it is not."""
    below = os.open(part, _LOOK | os.O_DIRECTORY, dir_fd=folder)
    os.close(folder)
    return below


def _target(folder: int, part: str, is_last: bool) -> str | None:
    """Where a symbolic link leads that may be followed; None where it is none, or nothing."""
    try:
        fd = os.open(part, _LOOK, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISLNK(found.st_mode):
            return None
        if is_strange(found) and (is_last or _is_for_all(folder)):
            reason = f"{part!r} is another user's ({found.st_uid}) symbolic link: not followed"
            raise OSError(errno.ELOOP, reason)
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)


def _is_for_all(folder: int) -> bool:
    return bool(os.fstat(folder).st_mode & stat.S_IWOTH)
