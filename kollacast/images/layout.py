"""The names in a registry's storage, and in an archive of it.

The layout is that of the distribution registry (registry/storage/paths.go, version 2): blobs under
their digest, and small files called ``link`` that hold the digest of a blob and nothing else. All
else that may lie there (uploads under way, a proxy's schedule) is not needed to serve an image.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

#: The storage in the root directory of a registry.
STORAGE = "docker/registry/v2"
#: The root directory of the registry in an archive.
PREFIX = "tmp/registry"
#: Bytes of a link, at the most.
MAX_LINK = 160
#: Characters of a repository's name, at the most: the limit of the registry itself.
MAX_REPOSITORY = 255
#: A regular expression for each part of a repository's name, and one for a tag.
COMPONENT = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
TAG = r"\w[\w.-]{0,127}"

#: What a registry knows blobs by itself. By another digest that it was pushed with, a blob has a
#: link that holds this one.
_CANONICAL = "sha256"
_ALGORITHMS = r"sha256|sha384|sha512"
_DIGEST = r"(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})"
#: The same as two folders.
_FOLDERS = rf"(?P<algorithm>{_ALGORITHMS})/(?P<hex>[0-9a-f]{{64,128}})"
_BLOB = re.compile(
    rf"{STORAGE}/blobs/(?P<algorithm>{_ALGORITHMS})/(?P<start>[0-9a-f]{{2}})"
    r"/(?P<hex>(?P=start)[0-9a-f]{62,126})/data"
)
_LINK = re.compile(
    rf"{STORAGE}/repositories/(?P<repository>{COMPONENT}(?:/{COMPONENT})*)"
    rf"/(?:_layers/{_FOLDERS}|_manifests/(?:revisions/{_FOLDERS.replace('P<', 'P<revision_')}"
    rf"|tags/(?P<tag>{TAG})"
    rf"/(?:current|index/{_FOLDERS.replace('P<', 'P<index_')})))/link",
    re.ASCII,
)


class BadImage(OSError):
    """An image file is not what it has to be; `strerror` says why in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EBADMSG, reason)


@dataclass(frozen=True)
class Blob:
    """A file that holds what `digest` is of."""

    path: str  #: in the registry's root directory
    digest: str  #: as in "sha256:2c26b4…"


@dataclass(frozen=True)
class Link:
    """A file that holds a digest."""

    path: str
    digest: str | None  #: that it stands for, if its path says so
    repository: str
    tag: str | None  #: that stands for the digest

    def may_hold(self, content: str) -> bool:
        """Whether this can be in it: a digest, and of the same blob as far as anybody can tell."""
        if not is_digest(content):
            return False
        is_alias = self.digest is not None and not self.digest.startswith(f"{_CANONICAL}:")
        return self.digest in (None, content) or (is_alias and content.startswith(f"{_CANONICAL}:"))


def blob_path(digest: str) -> str:
    """Where a blob is."""
    algorithm, _, value = digest.partition(":")
    return f"{STORAGE}/blobs/{algorithm}/{value[:2]}/{value}/data"


def layer_link(repository: str, digest: str) -> str:
    """Where the link is by which a repository has a blob."""
    return f"{STORAGE}/repositories/{repository}/_layers/{digest.replace(':', '/')}/link"


def revision_link(repository: str, digest: str) -> str:
    """Where the link is by which a repository has a manifest."""
    folders = digest.replace(":", "/")
    return f"{STORAGE}/repositories/{repository}/_manifests/revisions/{folders}/link"


def tag_link(repository: str, tag: str) -> str:
    """Where the link is to the manifest of a tag."""
    return f"{STORAGE}/repositories/{repository}/_manifests/tags/{tag}/current/link"


def locate(member: str) -> Blob | Link | None:
    """What an archive's member is; None for what no registry needs to serve images.

    Raises BadImage when the name leads out of where the archive is unpacked.
    """
    parts = PurePosixPath(member).parts
    if parts[:1] in (("/",), ("//",)) or ".." in parts:
        raise BadImage(f"its member {quoted(member)} leads out of the directory")
    path = "/".join(parts)
    return parse(path.removeprefix(f"{PREFIX}/"))


def parse(path: str) -> Blob | Link | None:
    """What the file with this path in a registry's root directory is; None as for `locate`.

    Raises BadImage for a repository with a name that no registry takes.
    """
    if match := _BLOB.fullmatch(path):
        digest = f"{match['algorithm']}:{match['hex']}"
        return Blob(path, digest) if is_digest(digest) else None
    if match := _LINK.fullmatch(path):
        if len(match["repository"]) > MAX_REPOSITORY:
            raise BadImage(
                f"its repository {quoted(match['repository'])} has a name of more than"
                f" {MAX_REPOSITORY} characters"
            )
        folders = [
            f"{match[f'{which}algorithm']}:{match[f'{which}hex']}"
            for which in ("", "revision_", "index_")
            if match[f"{which}hex"]
        ]
        named = folders[0] if folders else None
        if named is None or is_digest(named):
            return Link(path, named, match["repository"], None if named else match["tag"])
    return None


def is_digest(text: str) -> bool:
    """Whether `text` is a digest such as "sha256:2c26b4…"."""
    return re.fullmatch(_DIGEST, text) is not None


def quoted(name: str) -> str:
    """A name out of an archive for a message: printable, and not too long."""
    shown = ascii(name)
    return shown if len(shown) <= 120 else f"{shown[:116]}…'"
