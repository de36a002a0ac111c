"""What a manifest in a registry names: an image's configuration and layers, or other manifests.

The formats are those of the OCI image specification (manifest.md, image-index.md) and of the
distribution registry (manifest-v2-2.md, and the older schema 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kollacast.images.limits import read_json

#: Bytes of a manifest, at the most: the limit of the registry itself.
MAX_MANIFEST = 4 * 1024 * 1024

_OCI = "application/vnd.oci.image"
_DOCKER = "application/vnd.docker.distribution.manifest"
#: What registries serve. Without a type, a manifest is one of OCI's.
MEDIA_TYPES = (
    f"{_OCI}.manifest.v1+json",
    f"{_OCI}.index.v1+json",
    f"{_DOCKER}.v2+json",
    f"{_DOCKER}.list.v2+json",
    f"{_DOCKER}.v1+prettyjws",
    f"{_DOCKER}.v1+json",
)


#: Blobs and manifests that one may name. A registry's images have 127 layers at the most.
_MAX_NAMED = 10_000
#: Characters of a digest that a manifest names, at the most: sha512 takes 135.
_MAX_DIGEST = 256


@dataclass(frozen=True)
class Manifest:
    """Digests as the manifest has them, of whatever algorithm."""

    blobs: dict[str, int | None]  #: without which it cannot be pulled; their bytes, if it says so
    children: tuple[str, ...]  #: manifests, of the same image for other machines and such
    is_index: bool  #: whether it is for its children that there is this one


def read_manifest(content: bytes) -> Manifest | None:
    """The manifest of an image or of a list of images; None for other blobs."""
    if not may_be_manifest(content) or len(content) > MAX_MANIFEST:
        return None
    try:
        fields = read_json(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    version = fields.get("schemaVersion")
    if version not in (1, 2) or fields.get("mediaType") not in (None, "", *MEDIA_TYPES):
        return None
    try:
        if version == 1:
            layers = dict(_descriptors(fields.get("fsLayers"), "blobSum"))
            return Manifest(layers, (), False) if layers else None
        config = fields.get("config")
        blobs = [
            *_descriptors([] if config is None else [config]),
            *_descriptors(fields.get("layers")),
        ]
        children = tuple(digest for digest, _ in _descriptors(fields.get("manifests")))
    except ValueError:
        return None
    return Manifest(dict(blobs), children, "manifests" in fields)


def may_be_manifest(content: bytes) -> bool:
    """Whether it is worth to `read_manifest` this, by a look: that takes no memory."""
    return content.lstrip()[:1] == b"{" and b'"schemaVersion"' in content


def _descriptors(value: Any, key: str = "digest") -> Iterator[tuple[str, int | None]]:
    """Digest and size of descriptors, but of those that are kept elsewhere (`urls`).

    Raises ValueError where there is something else.
    """
    entries = [] if value is None else value if isinstance(value, list) else [value]
    if len(entries) > _MAX_NAMED:
        raise ValueError(len(entries))
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise ValueError(entry)
        if len(entry[key]) > _MAX_DIGEST:
            raise ValueError(entry)
        if not entry.get("urls"):
            size = entry.get("size")
            yield entry[key], size if isinstance(size, int) else None
