"""The links in a registry's storage in a directory, found through symbolic links as it finds them.

A storage may be spread over several volumes, and a repository, a folder of them or a tag may have
another name that is a symbolic link. A registry does not see the difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from kollacast.images.layout import STORAGE, BadImage, Link, parse

#: How often one directory may be among those that lead to a file. Twice lets a symbolic link lead
#: back to where it is, as one that gives all repositories another name; more is a loop.
_MAX_VISITS = 2
#: Folders of a repository that are not needed to serve an image.
_UNUSED = ("_uploads",)


def find_links(root: str, remark: Callable[[str], object]) -> Iterator[Link]:
    """All links below a registry's root directory; of what is not followed, `remark` is told.

    The registry may run: what is there when this begins is found, and a tag before what it names,
    which a registry writes first. Raises OSError, and BadImage for a symbolic link to nowhere.
    """
    top = os.path.join(root, STORAGE, "repositories")
    for path in _files(top, (), remark):
        entry = parse(os.path.relpath(path, root))
        if isinstance(entry, Link):
            yield entry


def broken_link(root: str, path: str) -> str | None:
    """A sentence on the symbolic link that keeps `path` below `root` from being a file, if any."""
    way = root
    for part in path.split("/"):
        way = os.path.join(way, part)
        if os.path.islink(way) and not os.path.exists(way):
            return f"{way} is a symbolic link to {os.readlink(way)}, which is not there"
    return None


def _files(
    folder: str, above: tuple[tuple[int, int], ...], remark: Callable[[str], object]
) -> Iterator[str]:
    """All files below `folder`; `above` are the directories that have led there."""
    try:
        status = os.stat(folder)
        with os.scandir(folder) as entries:
            # Behind each other: tags, revisions, layers.
            found = sorted(entries, key=lambda entry: entry.name, reverse=True)
    except FileNotFoundError:  # as an upload that has ended meanwhile
        return
    here = (*above, (status.st_dev, status.st_ino))
    if here.count(here[-1]) > _MAX_VISITS:
        remark(f"left out: {folder} leads back to where it comes from")
        return
    for entry in found:
        if entry.name in _UNUSED:
            continue
        if entry.is_symlink() and not os.path.exists(entry.path) and os.path.islink(entry.path):
            target = os.readlink(entry.path)
            raise BadImage(f"{entry.path}: is a symbolic link to {target}, which is not there")
        if entry.is_dir():
            yield from _files(entry.path, here, remark)
        else:
            yield entry.path
