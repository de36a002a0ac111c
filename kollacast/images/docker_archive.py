"""Archives that `docker save` has written: which images they hold, for skopeo to read.

Their ``manifest.json`` is that of the Docker Image Specification, version 1.2 (moby,
image/spec/v1.2.md).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
from dataclasses import dataclass

from kollacast.images.compression import START, decompressed, is_compressed, naming
from kollacast.images.layout import BadImage

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
        with tarfile.open(archive, "r:") as file:
            manifest = file.extractfile("manifest.json")
            assert manifest is not None
            entries = json.loads(manifest.read(_MAX_MANIFEST))
        return [
            SavedImage(
                str(entry["Config"]).rpartition("/")[2].removesuffix(".json"),
                tuple(map(str, entry["RepoTags"] or ())),
            )
            for entry in entries
        ]
    except KeyError:
        raise BadImage(
            f"{path}: is nothing that `docker save` wrote, or cut short: it has no manifest.json"
        ) from None
    except (tarfile.TarError, ValueError, TypeError, AssertionError):
        raise BadImage(f"{path}: is nothing that `docker save` wrote") from None
