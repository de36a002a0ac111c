"""Archives that `docker save` has written: which images they hold, for skopeo to read.

Their ``manifest.json`` is that of the Docker Image Specification, version 1.2 (moby,
image/spec/v1.2.md).
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from dataclasses import dataclass
from typing import BinaryIO

from kollacast.images.compression import START, decompressed, is_compressed, naming
from kollacast.images.layout import BadImage
from kollacast.images.limits import Account, read_json
from kollacast.images.tar import Archive

#: Bytes of a manifest, at the most.
_MAX_MANIFEST = 16 * 1024 * 1024


@dataclass(frozen=True)
class SavedImage:
    """One image of an archive."""

    id: str  #: what it has when it has no name
    names: tuple[str, ...]  #: references


def make_plain(path: str, target: str) -> None:
    """Make `target` the archive `path`, a copy only where that is compressed, or no file.

    skopeo cannot be relied on to decompress it. Raises OSError, BadImage among them.
    """
    with naming(path), open(path, "rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            if not is_compressed(file.read(START)):
                os.symlink(os.path.abspath(path), target)
                return
            file.seek(0)
        with open(target, "wb") as plain:
            shutil.copyfileobj(decompressed(file), plain)


def images_of(archive: str, path: str) -> list[SavedImage]:
    """The images of an archive that is not compressed, in its order. Raises OSError.

    `path` is what an operator calls it.
    """
    try:
        with naming(path), open(archive, "rb") as file:
            entries = read_json(_manifest(file))
        return [
            SavedImage(
                str(entry["Config"]).rpartition("/")[2].removesuffix(".json"),
                tuple(map(str, entry["RepoTags"] or ())),
            )
            for entry in entries
        ]
    except (tarfile.TarError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise BadImage(f"{path}: is nothing that `docker save` wrote") from None


def _manifest(file: BinaryIO) -> bytes:
    """What an archive has as its manifest. Raises BadImage if it has none."""
    archive = Archive(file, Account(), skips=True)
    content: io.BytesIO | None = None
    for member in archive.members():
        if member.name == "manifest.json" and member.isreg():
            if member.size > _MAX_MANIFEST:
                raise BadImage(f"it has a manifest.json of {member.size} bytes")
            content = io.BytesIO()
            archive.content(member, content.write)
    if content is None:
        raise BadImage("is nothing that `docker save` wrote, or cut short: it has no manifest.json")
    return content.getvalue()
