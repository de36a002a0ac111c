"""Which images a registry's storage holds, and whether a registry could serve them.

Filled from blobs and links in any order, and judged once all are known. Whoever reads a storage,
in a directory or in an archive, is judged here, so the same storage is judged in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kollacast.images.layout import (
    BadImage,
    Blob,
    Link,
    blob_path,
    is_digest,
    layer_link,
    quoted,
    revision_link,
    tag_link,
)
from kollacast.images.manifest import Manifest, may_be_manifest, read_manifest

#: Blobs and links in a storage, at the most: three times what a cluster of a thousand images has.
_MAX_ENTRIES = 100_000
#: Bytes of all manifests: one has some thousand.
_MAX_MANIFESTS = 32 * 1024 * 1024
#: Blobs and manifests of all images together, those of several counted for each.
_MAX_PARTS = 1_000_000
#: Remarks of a kind, and names in one, that are shown; the others are counted.
_SHOWN = 10
#: Characters of a name; a sha512 has 135.
_LONGEST_SHOWN = 135


@dataclass(frozen=True)
class Image:
    """One image that can be pulled by its name."""

    repository: str  #: as in "openstack.kolla/nova-api"
    tag: str
    digest: str  #: of its manifest
    bytes: int  #: of manifests, configurations and layers
    absent: tuple[str, ...] = ()  #: manifests that its index names, and nobody has pushed

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}"


class _LackingError(Exception):
    """Why an image cannot be served, as what follows its name."""


@dataclass
class Catalog:
    """Filled by the methods `add_…`; the last of several that are alike counts."""

    sizes: dict[str, int] = field(default_factory=dict)  #: bytes of each blob, by digest
    #: what may be a manifest, by digest; and what of it was needed, once it is read
    _contents: dict[str, bytes] = field(default_factory=dict)
    _content_bytes: int = 0
    _manifests: dict[str, Manifest | None] = field(default_factory=dict)
    #: as long as nothing is added: the images, and the digests of the blobs that they consist of
    _judgement: tuple[list[Image], set[str]] | None = None
    _links: dict[str, str] = field(default_factory=dict)  #: digests by path
    #: what is wrong, as what follows a colon and as a line of its own, by path
    _damaged: dict[str, tuple[str, str]] = field(default_factory=dict)
    _tags: set[tuple[str, str]] = field(default_factory=set)
    _remarks: list[str] = field(default_factory=list)
    _remarks_not_kept: int = 0

    def add_blob(self, digest: str, size: int, content: bytes | None) -> None:
        """There is a blob; `content` is what a manifest would be read from."""
        self.remove_blob(digest)
        self._damaged.pop(blob_path(digest), None)
        self.sizes[digest] = size
        if content is not None and may_be_manifest(content):
            self._contents[digest] = content
            self._content_bytes += len(content)
            if self._content_bytes > _MAX_MANIFESTS:
                raise BadImage(f"it has more than {_MAX_MANIFESTS} bytes of manifests")
        self._prove_size()

    def remove_blob(self, digest: str) -> None:
        """There is no such blob, after all."""
        self._judgement = None
        self.sizes.pop(digest, None)
        self._manifests.pop(digest, None)
        self._content_bytes -= len(self._contents.pop(digest, b""))

    def add_link(self, link: Link, digest: str) -> None:
        """There is a link that holds `digest`."""
        self._judgement = None
        self._damaged.pop(link.path, None)
        self._links[link.path] = digest
        self._note_tag(link)

    def add_damaged(self, entry: Blob | Link, why: str, line: str) -> None:
        """There is something of which no registry can make use.

        `why` follows the name of what needs it, `line` is for an operator where nothing does.
        """
        self._judgement = None
        if isinstance(entry, Blob):
            if entry.digest in self.sizes:
                return
        else:
            self._links.pop(entry.path, None)
            self._note_tag(entry)
        self._damaged[entry.path] = why, line
        self._prove_size()

    def link(self, path: str) -> str | None:
        """The digest in a link, if it is there."""
        return self._links.get(path)

    def remark(self, line: str) -> None:
        """Something else was left out, for the operator to know."""
        if len(self._remarks) < _SHOWN:
            self._remarks.append(line)
        else:
            self._remarks_not_kept += 1

    def remarks(self) -> Iterator[str]:
        """What an operator should know of a storage whose images are whole, a line each."""
        lines = [*self._remarks, *(line for _, line in self._damaged.values())]
        yield from lines[:_SHOWN]
        if more := len(lines[_SHOWN:]) + self._remarks_not_kept:
            yield f"left out: {more} more"
        partial = [image for image in self.images() if image.absent]
        for image in partial[:_SHOWN]:
            names = _some_of(image.absent)
            yield f"{_short(image.name)} is without what was never pushed of its index: {names}"
        if partial[_SHOWN:]:
            yield f"and so are {len(partial) - _SHOWN} more images"

    def images(self) -> list[Image]:
        """All images, sorted. Raises BadImage if there is none, or one cannot be served."""
        return self._judged()[0]

    def needed(self) -> set[str]:
        """The digests of the blobs that the images consist of. Raises BadImage."""
        return self._judged()[1]

    def _judged(self) -> tuple[list[Image], set[str]]:
        """All images, and the digests of their blobs."""
        if self._judgement is None:
            self._judgement = self._judge_all()
        return self._judgement

    def _judge_all(self) -> tuple[list[Image], set[str]]:
        if not self._tags:
            raise BadImage("it holds no image of a registry")
        images: list[Image] = []
        needed: set[str] = set()
        problems: dict[str, str] = {}
        left = _MAX_PARTS
        for repository, tag in sorted(self._tags):
            try:
                image, parts = self._judge(repository, tag, left)
            except _LackingError as error:
                problems[f"{repository}:{tag}"] = str(error)
                left -= 1
                continue
            images.append(image)
            needed |= parts
            left -= len(parts)
        if problems:
            first, *others = problems
            also = f"; not whole, either: {_some_of(others)}" if others else ""
            raise BadImage(f"its image {_short(first)} {problems[first]}{also}")
        return images, needed

    def _judge(self, repository: str, tag: str, most: int) -> tuple[Image, set[str]]:
        """One image of up to `most` parts, by what a registry looks up when it is pulled."""
        path = tag_link(repository, tag)
        if path not in self._links:
            raise _LackingError(f"lacks the link of its tag{self._why(path)}")
        digest = self._links[path]
        parts: set[str] = set()
        absent: list[str] = []
        seen: set[str] = set()
        waiting = [digest]
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            stored, manifest = self._manifest(repository, current)
            parts.add(stored)
            parts.update(self._blob(repository, blob) for blob in manifest.blobs)
            count = len(waiting)
            for child in manifest.children:
                (waiting if self._is_known(repository, child) else absent).append(child)
            if manifest.is_index and len(waiting) == count:
                raise _LackingError(
                    f"lacks every image of its index {current}{_list_of(manifest.children)}"
                )
            if len(parts) + len(waiting) + len(absent) > most:
                raise BadImage(f"its images consist of more than {_MAX_PARTS} blobs and manifests")
        size = sum(self.sizes[part] for part in parts)
        return Image(repository, tag, digest, size, tuple(dict.fromkeys(absent))), parts

    def _manifest(self, repository: str, digest: str) -> tuple[str, Manifest]:
        """A manifest, and the digest of its blob."""
        # A registry looks into both: its version 2.1.0 wrote only the second one.
        paths = revision_link(repository, digest), layer_link(repository, digest)
        known = next((path for path in paths if path in self._links), None)
        if known is None:
            why = self._why(paths[0])
            raise _LackingError(f"lacks the link in its repository to the manifest {digest}{why}")
        stored = self._links[known]
        if stored not in self.sizes:
            raise _LackingError(f"lacks the manifest {digest}{self._why(blob_path(stored))}")
        if stored not in self._manifests:
            self._manifests[stored] = read_manifest(self._contents.get(stored, b""))
        manifest = self._manifests[stored]
        if manifest is None:
            raise _LackingError(f"has in the place of its manifest something else: {digest}")
        return stored, manifest

    def _blob(self, repository: str, digest: str) -> str:
        """The digest of what is there for a blob that a manifest names."""
        _prove_digest(digest)
        path = layer_link(repository, digest)
        stored = self._links.get(path)
        if stored is None:
            why = self._why(path)
            raise _LackingError(f"lacks the link in its repository to the blob {digest}{why}")
        if stored not in self.sizes:
            raise _LackingError(f"lacks the blob {digest}{self._why(blob_path(stored))}")
        return stored

    def _is_known(self, repository: str, digest: str) -> bool:
        """Whether a manifest was ever pushed there."""
        _prove_digest(digest)
        paths = revision_link(repository, digest), layer_link(repository, digest)
        return any(path in self._links or path in self._damaged for path in paths)

    def _why(self, path: str) -> str:
        return f": {self._damaged[path][0]}" if path in self._damaged else ""

    def _note_tag(self, link: Link) -> None:
        if link.tag is not None:
            self._tags.add((link.repository, link.tag))
        self._prove_size()

    def _prove_size(self) -> None:
        if len(self.sizes) + len(self._links) + len(self._damaged) > _MAX_ENTRIES:
            raise BadImage(f"it has more than {_MAX_ENTRIES} blobs and links")


def _prove_digest(text: str) -> None:
    if not is_digest(text):
        raise _LackingError(f"needs {quoted(text)}, a digest of no algorithm that is known here")


def _some_of(names: Sequence[str]) -> str:
    """The first ones, for a line, and how many there are beside."""
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return ", ".join(map(_short, names[:_SHOWN])) + more


def _short(name: str) -> str:
    """A name of an image, or a digest, for a line."""
    return name if len(name) <= _LONGEST_SHOWN else f"{name[: _LONGEST_SHOWN - 1]}…"


def _list_of(digests: tuple[str, ...]) -> str:
    """The first of them, for the end of a line."""
    if not digests:
        return ", which names none"
    more = f" and {len(digests) - 1} more" if digests[1:] else ""
    return f": {digests[0]}{more}"
