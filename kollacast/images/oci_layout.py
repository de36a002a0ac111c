"""OCI layouts, in a folder or an archive: which images they hold, and one of them by itself.

The layout is that of the OCI image specification (image-layout.md, annotations.md). containerd and
BuildKit write a tag alone as the name of the specification, and the whole reference beside it.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from kollacast.images.compression import decompressed, naming
from kollacast.images.layout import BadImage, is_digest
from kollacast.images.limits import Account, read_json
from kollacast.images.manifest import MAX_MANIFEST
from kollacast.images.tar import Archive, counted

_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
#: What a descriptor needs to lead to its image.
_DESCRIPTOR = ("mediaType", "digest", "size")
_MEMBER = re.compile(r"oci-layout|index\.json|blobs/[a-z0-9]+/[0-9a-f]+", re.ASCII)


@dataclass(frozen=True)
class LayoutImage:
    """One image of a layout."""

    digest: str
    ref_name: str | None  #: a tag, or a reference
    full_name: str | None  #: a reference
    descriptor: dict[str, Any]

    @property
    def reference(self) -> str | None:
        """What it is called: a reference, or a tag alone; None when it has no tag."""
        for name in (self.full_name, self.ref_name):
            # Of an image that was pulled by its digest, that is behind the name, or all of it.
            tagged, at, _ = (name or "").partition("@")
            if tagged and not is_digest(tagged) and (not at or ":" in tagged.rpartition("/")[2]):
                return tagged
        return None

    def is_called(self, name: str) -> bool:
        """Whether an operator may mean this one."""
        return name in (self.digest, self.ref_name, self.full_name, self.reference)


def images_of(folder: str, path: str) -> list[LayoutImage]:
    """The images of the layout in `folder`, which an operator calls `path`. Raises OSError."""
    index = os.path.join(folder, "index.json")
    try:
        with open(index, "rb") as file:
            data = file.read(MAX_MANIFEST + 1)
        if len(data) > MAX_MANIFEST:
            raise BadImage(f"{path}: has an index.json of more than {MAX_MANIFEST} bytes")
        return [_image(descriptor) for descriptor in read_json(data)["manifests"]]
    except FileNotFoundError:
        if not os.path.isdir(folder):
            raise
        raise BadImage(f"{path}: is no OCI layout: it has no index.json") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadImage(
            f"{os.path.join(path, 'index.json')}: is no index of an OCI layout"
        ) from None


def unpack_archive(path: str, folder: str) -> None:
    """Make `folder` the layout in the archive `path`. Raises OSError, BadImage among them."""
    account = Account()
    try:
        with naming(path), open(path, "rb") as file:
            archive = Archive(decompressed(counted(file, account)), account)
            for member in archive.members():
                name = str(PurePosixPath(member.name))
                if member.isreg() and _MEMBER.fullmatch(name):
                    account.file(name)
                    target = os.path.join(folder, name)
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    with open(target, "wb") as copy:
                        archive.content(member, copy.write)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError):
        raise BadImage(f"{path}: is neither an OCI layout nor an archive of one") from None
    if not os.path.exists(os.path.join(folder, "index.json")):
        raise BadImage(f"{path}: is no archive of an OCI layout: it has no index.json")


def make_layout_of(image: LayoutImage, folder: str, target: str) -> None:
    """Make the folder `target` a layout of that one image of the layout in `folder`.

    So neither its name nor the folder's has to be one that skopeo can tell from the other.
    """
    os.mkdir(target)
    os.symlink(os.path.join(os.path.abspath(folder), "blobs"), os.path.join(target, "blobs"))
    descriptor = {key: image.descriptor[key] for key in _DESCRIPTOR if key in image.descriptor}
    for name, content in (
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
        ("index.json", {"schemaVersion": 2, "manifests": [descriptor]}),
    ):
        with open(os.path.join(target, name), "w", encoding="utf-8") as file:
            json.dump(content, file)


def _image(descriptor: dict[str, Any]) -> LayoutImage:
    annotations = descriptor.get("annotations") or {}
    ref_name, full_name = (str(annotations.get(key) or "") or None for key in _NAMES)
    return LayoutImage(str(descriptor["digest"]), ref_name, full_name, descriptor)
