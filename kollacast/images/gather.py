"""Makes an image file from images that are anywhere, by way of a registry for the moment."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kollacast.images.catalog import Catalog
from kollacast.images.layout import BadImage, quoted
from kollacast.images.pack import pack_storage
from kollacast.images.references import name_of, with_namespace
from kollacast.images.registry import copy_image, names_in_docker_archive, temporary_registry

_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Copy:
    """One image: where it is, and what it is to be called."""

    source: str  #: in skopeo's words
    name: str  #: repository:tag
    words: tuple[str, ...] = ()  #: skopeo's options


def from_registries(references: Sequence[str], tls_verify: bool) -> list[Copy]:
    """Images in registries, manifests as they are there; of a list the one for this machine."""
    words = ("--preserve-digests", f"--src-tls-verify={str(tls_verify).lower()}")
    names = [reference.removeprefix("docker://") for reference in references]
    return [Copy(f"docker://{name}", name_of(name), words) for name in names]


def from_docker_archives(paths: Sequence[str]) -> list[Copy]:
    """All images of archives that `docker save` made. Raises OSError."""
    copies = []
    for path in paths:
        _prove_readable(path)
        names = names_in_docker_archive(path)
        if not names:
            raise BadImage(f"{path}: no image in it has a name")
        copies += [Copy(f"docker-archive:{path}:{name}", name_of(name)) for name in names]
    return copies


def from_layouts(words: Sequence[str]) -> list[Copy]:
    """Images of OCI layouts: `DIR` for all, or `DIR:TAG`; manifests as they are. Raises OSError.

    A tag that is a reference names the image; else the repository has the directory's name.
    """
    copies = []
    for word in words:
        folder, _, tag = (word, "", "") if os.path.isdir(word) else word.partition(":")
        known = _tags_of_layout(folder)
        if tag and tag not in known:
            raise BadImage(f"{folder}: has no image {quoted(tag)}")
        for each in [tag] if tag else known:
            is_reference = "/" in each or ":" in each
            home = os.path.basename(os.path.abspath(folder)).lower()
            name = name_of(each if is_reference else f"{home}:{each}")
            copies.append(Copy(f"oci:{folder}:{each}", name, ("--preserve-digests",)))
    return copies


def in_namespace(copies: Sequence[Copy], namespace: str | None) -> list[Copy]:
    """The same copies, where those whose names have no namespace get this one, if any."""
    return [replace(each, name=with_namespace(each.name, namespace)) for each in copies]


def pack_copies(
    copies: Sequence[Copy], path: str, compression: str, copied: Callable[[str], None]
) -> Catalog:
    """Copy the images together and pack them; `copied` is told the name of each that is there.

    What is needed meanwhile lies beside `path`. Raises OSError, BadImage among them.
    """
    names = [each.name for each in copies]
    for name in names:
        if names.count(name) > 1:
            raise BadImage(f"two images would be called {name}")
    folder, base = os.path.split(os.path.abspath(path))
    with (
        tempfile.TemporaryDirectory(prefix=f".{base[:50]}.", dir=folder) as scratch,
        temporary_registry(scratch) as (root, address),
    ):
        for each in copies:
            copy_image(each.source, address, each.name, *each.words)
            copied(each.name)
        return pack_storage(root, path, compression)


def _tags_of_layout(folder: str) -> list[str]:
    """The names of the images in a layout (image-layout.md of the OCI image specification)."""
    path = os.path.join(folder, "index.json")
    try:
        with open(path, encoding="utf-8") as file:
            manifests = json.load(file)["manifests"]
        tags = [(each.get("annotations") or {}).get(_REF_NAME) for each in manifests]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadImage(f"{path}: is no index of an OCI layout") from None
    if not any(tags):
        raise BadImage(f"{folder}: no image in it has a name")
    return [str(tag) for tag in tags if tag]


def _prove_readable(path: str) -> None:
    with open(path, "rb"):
        pass
