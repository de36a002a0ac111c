"""Removes a folder and all that is in it, however deep it is, and nothing that a link leads to.

A folder in a folder is moved to the top before it is looked into: so it takes as many descriptors,
and as little memory, for a thousand levels as for one. All that is known stands in the file system,
and whoever is interrupted can begin anew.
"""

from __future__ import annotations

import errno
import os

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What a system answers that is asked to unlink a folder; the second is Linux's.
_IS_FOLDER = (errno.EPERM, errno.EISDIR)
_IN_USE = (errno.ENOTEMPTY, errno.EEXIST)


def remove_tree(folder: int, name: str) -> None:
    """Remove what is called `name` in the open `folder`, if there is anything. Raises OSError."""
    try:
        _remove(folder, name)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _IN_USE:
            raise
    top = os.open(name, _FOLDER, dir_fd=folder)
    try:
        moved = 0
        # What is moved here meanwhile comes last.
        while names := os.listdir(top):
            for below in names:
                moved = _clear(top, below, moved)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=folder)


def _clear(top: int, name: str, moved: int) -> int:
    """Remove `name` from `top`; the folders in it that are not empty go to `top`.

    So many were `moved` before, and that many are when this returns.
    """
    try:
        _remove(top, name)
        return moved
    except OSError as error:
        if error.errno not in _IN_USE:
            raise
    here = os.open(name, _FOLDER, dir_fd=top)
    try:
        for below in os.listdir(here):
            try:
                _remove(here, below)
            except OSError as error:
                if error.errno not in _IN_USE:
                    raise
                moved = _move(here, below, top, moved)
    finally:
        os.close(here)
    os.rmdir(name, dir_fd=top)
    return moved


def _move(here: int, name: str, top: int, moved: int) -> int:
    """Move a folder to `top`, under a number that nothing has there."""
    while True:
        moved += 1
        try:
            # Takes the place of an empty folder, and of nothing else.
            os.rename(name, f".{moved}", src_dir_fd=here, dst_dir_fd=top)
            return moved
        except OSError as error:
            if error.errno not in (*_IN_USE, errno.ENOTDIR):
                raise


def _remove(folder: int, name: str) -> None:
    """Remove a file, a link, or an empty folder. Raises OSError."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno not in _IS_FOLDER:
            raise
        os.rmdir(name, dir_fd=folder)
