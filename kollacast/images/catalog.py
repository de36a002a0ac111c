"""Which images a registry's storage holds, from its blobs and links in any order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kollacast.images.layout import BadImage, is_digest

#: Bytes of a manifest, at the most: the limit of the registry itself.
MAX_MANIFEST = 4 * 1024 * 1024


@dataclass(frozen=True)
class Image:
    """One image that can be pulled by its name."""

    repository: str  #: as in "openstack.kolla/nova-api"
    tag: str
    digest: str  #: of its manifest
    bytes: int  #: of manifest, configuration and layers

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True)
class _Manifest:
    needed: tuple[str, ...]  #: digests of blobs without which it cannot be pulled
    others: tuple[str, ...]  #: of manifests of the same image for other machines, and such


@dataclass
class Catalog:
    """Filled by :meth:`add_blob` and :meth:`add_tag`."""

    sizes: dict[str, int] = field(default_factory=dict)  #: bytes of each blob, by digest
    _manifests: dict[str, _Manifest] = field(default_factory=dict)
    _tags: dict[tuple[str, str], str] = field(default_factory=dict)

    def add_blob(self, digest: str, size: int, content: bytes | None) -> None:
        """There is a blob; `content` is what a manifest would be read from."""
        self.sizes[digest] = size
        manifest = _read_manifest(content) if content is not None else None
        if manifest is not None:
            self._manifests[digest] = manifest

    def add_tag(self, repository: str, tag: str, digest: str) -> None:
        """There is a tag."""
        self._tags[repository, tag] = digest

    def images(self) -> list[Image]:
        """All images, sorted. Raises BadImage if there is none, or one is not whole."""
        if not self._tags:
            raise BadImage("it holds no image of a registry")
        return [
            Image(repository, tag, digest, self._image_bytes(f"{repository}:{tag}", digest))
            for (repository, tag), digest in sorted(self._tags.items())
        ]

    def _image_bytes(self, name: str, digest: str) -> int:
        if digest not in self._manifests:
            raise BadImage(f"its image {name} lacks the manifest {digest}")
        parts: dict[str, int] = {}
        waiting = [digest]
        while waiting:
            current = waiting.pop()
            if current in parts:
                continue
            parts[current] = self.sizes[current]
            manifest = self._manifests.get(current)
            if manifest is None:
                continue
            for needed in manifest.needed:
                if needed not in self.sizes:
                    raise BadImage(f"its image {name} lacks the blob {needed}")
                parts[needed] = self.sizes[needed]
            waiting += [other for other in manifest.others if other in self.sizes]
        return sum(parts.values())


def _read_manifest(content: bytes) -> _Manifest | None:
    """The manifest of an image or of a list of images; None for other blobs."""
    if content.lstrip()[:1] != b"{":
        return None
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or fields.get("schemaVersion") not in (1, 2):
        return None
    needed = [*_descriptors([fields.get("config")]), *_descriptors(fields.get("layers"))]
    return _Manifest(tuple(needed), tuple(_descriptors(fields.get("manifests"))))


def _descriptors(value: Any) -> Iterator[str]:
    """The digests of descriptors, but of those that are kept elsewhere (`urls`)."""
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, dict) and not entry.get("urls"):
            digest = entry.get("digest")
            if isinstance(digest, str) and is_digest(digest):
                yield digest
