"""Makes an image file from images that are anywhere, by way of a registry for the moment."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kollacast.images import docker_archive, oci_layout
from kollacast.images.catalog import Catalog
from kollacast.images.layout import BadImage, quoted
from kollacast.images.oci_layout import LayoutImage
from kollacast.images.pack import pack_storage
from kollacast.images.references import is_namespace, name_of, with_namespace
from kollacast.images.registry import copy_image, temporary_registry

#: Takes a line for the operator.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Copy:
    """One image: where it is, and what it is to be called."""

    source: str  #: in skopeo's words
    name: str  #: repository:tag
    words: tuple[str, ...] = ()  #: skopeo's options
    folder: str | None = None  #: where a path in `source` begins


#: Looks for images, with an empty folder for what is needed until they are copied. Raises OSError.
Find = Callable[[str], list[Copy]]


def from_registries(references: Sequence[str], tls_verify: bool) -> list[Copy]:
    """Images in registries, manifests as they are there; of a list the one for this machine."""
    words = ("--preserve-digests", f"--src-tls-verify={str(tls_verify).lower()}")
    names = [reference.removeprefix("docker://") for reference in references]
    return [Copy(f"docker://{name}", name_of(name), words) for name in names]


def from_docker_archives(paths: Sequence[str], folder: str, say: Say) -> list[Copy]:
    """All images with names of archives that `docker save` made. Raises OSError."""
    copies = []
    for number, path in enumerate(paths):
        plain = os.path.join(folder, f"{number}.tar")
        docker_archive.make_plain(path, plain)
        found = []
        for index, image in enumerate(docker_archive.images_of(plain, path)):
            source = f"docker-archive:{number}.tar:@{index}"
            found += [Copy(source, name_of(name), (), folder) for name in image.names]
            if not image.names:
                say(_left_out(path, image.id))
        copies += _prove_any(found, path)
    return copies


def from_layouts(words: Sequence[str], folder: str, say: Say) -> list[Copy]:
    """Images of OCI layouts: `PATH` for all with names, or `PATH:TAG`; manifests as they are.

    A reference names the image; where there is but a tag, the repository has the layout's name.
    Raises OSError.
    """
    copies = []
    for number, word in enumerate(words):
        path, tag = _split(word)
        layout = path
        if os.path.exists(path) and not os.path.isdir(path):
            layout = os.path.join(folder, f"{number}")
            oci_layout.unpack_archive(path, layout)
        images = oci_layout.images_of(layout, path)
        if tag is not None:
            images = [_only(images, tag, path)]
        found: dict[tuple[str, str], Copy] = {}
        for index, image in enumerate(images):
            name = _name_in_layout(image, path)
            if name is None:
                say(_left_out(path, image.digest))
            elif (name, image.digest) not in found:
                source = f"{number}-{index}"
                oci_layout.make_layout_of(image, layout, os.path.join(folder, source))
                copy = Copy(f"oci:{source}", name, ("--preserve-digests",), folder)
                found[name, image.digest] = copy
        copies += _prove_any(list(found.values()), path)
    return copies


def in_namespace(copies: Sequence[Copy], namespace: str | None) -> list[Copy]:
    """The same copies, where those whose names have no namespace get this one, if any."""
    return [replace(each, name=with_namespace(each.name, namespace)) for each in copies]


def pack_copies(find: Find, path: str, compression: str, copied: Callable[[str], None]) -> Catalog:
    """Copy the images together and pack them; `copied` is told the name of each that is there.

    What is needed meanwhile lies beside `path`. Raises OSError, BadImage among them.
    """
    folder, base = os.path.split(os.path.abspath(path))
    with tempfile.TemporaryDirectory(prefix=f".{base[:50]}.", dir=folder) as scratch:
        sources = os.path.join(scratch, "sources")
        os.mkdir(sources)
        copies = find(sources)
        names = [each.name for each in copies]
        for name in names:
            if names.count(name) > 1:
                raise BadImage(f"two images would be called {name}")
        with temporary_registry(scratch) as (root, address):
            for each in copies:
                copy_image(each.source, address, each.name, each.words, each.folder)
                copied(each.name)
            return pack_storage(root, path, compression)


def _split(word: str) -> tuple[str, str | None]:
    """The path and the tag of `PATH:TAG`; the path is the longest one that is there."""
    if os.path.exists(word):
        return word, None
    places = [match.start() for match in re.finditer(":", word)]
    there = [place for place in places if os.path.exists(word[:place])]
    at = (there or places[:1] or [len(word)])[-1]
    return word[:at], word[at + 1 :] or None


def _only(images: Sequence[LayoutImage], tag: str, path: str) -> LayoutImage:
    """The image of a layout that an operator calls `tag`. Raises BadImage."""
    found = {(image.reference, image.digest): image for image in images if image.is_called(tag)}
    if not found:
        raise BadImage(f"{path}: has no image {quoted(tag)}")
    if len(found) > 1:
        names = ", ".join(image.full_name or image.digest for image in found.values())
        raise BadImage(f"{path}: has more than one image {quoted(tag)}: say which of {names}")
    return next(iter(found.values()))


def _name_in_layout(image: LayoutImage, path: str) -> str | None:
    reference = image.reference
    if reference is None or "/" in reference or ":" in reference:
        return None if reference is None else name_of(reference)
    base = os.path.basename(os.path.abspath(path)).lower()
    home = re.sub(r"\.(tar(\.\w+)?|tgz)$", "", base)
    if not is_namespace(home):
        home = re.sub("[^a-z0-9]+", "-", home).strip("-") or "layout"
    return name_of(f"{home}:{reference}")


def _left_out(path: str, image: str) -> str:
    return f"{path}: its image {quoted(image)} has no name to be pulled by, and is left out"


def _prove_any(copies: list[Copy], path: str) -> list[Copy]:
    if not copies:
        raise BadImage(f"{path}: no image in it has a name")
    return copies
