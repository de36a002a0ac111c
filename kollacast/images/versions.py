"""The versions of a registry's storage on a host, of which one is current, and how it gets so.

    DIR/versions/7/docker/registry/v2/…   one version; 7/.kollacast.json says what it is
    DIR/current  -> versions/7            the root directory of the registry that serves it
    DIR/previous -> versions/6            the version before, to go back to

A version gets its number when it is whole and on disk, and `current` then changes in one moment.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from kollacast.files.atomic_file import sync_folder
from kollacast.images.catalog import Image
from kollacast.images.layout import Link, is_digest, parse, tag_link

_RECORD = ".kollacast.json"
_NO_RECORD = "is no record of a received image"
_PART = ".incoming.part"
_LINKS = ("current", "previous")
#: The registry runs as another user, and reads; who else may is for the mode of DIR to say.
_FILE_MODE = 0o644
_FOLDER_MODE = 0o755


@dataclass(frozen=True)
class Record:
    """What is known of a version."""

    digest: str  #: of the image file, as in "sha256:2c26b4…"
    bytes: int  #: of the image file
    received_at: str  #: ISO 8601, in UTC
    images: Sequence[Image]

    def as_json(self) -> dict[str, Any]:
        algorithm, _, value = self.digest.partition(":")
        return {algorithm: value, **asdict(self)}


class Versions:
    """The versions in one folder; only one object at a time, of all processes, may change them."""

    def __init__(self, root: str) -> None:
        """Make the folder if need be. Raises OSError, also when another process is at it.

        And when the place of a link to a version is taken by something else.
        """
        self._root = os.path.abspath(root)
        _prove_links(root)
        self._folder = os.path.join(self._root, "versions")
        self._part = os.path.join(self._folder, _PART)
        _make_folder(self._folder)
        self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise OSError(errno.EBUSY, "another process receives an image there", root) from None

    def close(self) -> None:
        """Let others change them."""
        os.close(self._fd)

    def begin(self) -> None:
        """Begin a version; what was begun before, by whomever, is removed. Raises OSError."""
        self.discard()
        os.mkdir(self._part)
        os.chmod(self._part, _FOLDER_MODE)

    def discard(self) -> None:
        """Remove what was begun. Raises OSError."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._part)

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        """A new file in what was begun, in the place of one that is there. Raises OSError.

        When the context ends by an exception, there is none.
        """
        whole = os.path.join(self._part, path)
        _make_folder(os.path.dirname(whole))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(whole, flags, _FILE_MODE)
        except FileExistsError:
            os.unlink(whole)
            fd = os.open(whole, flags, _FILE_MODE)
        try:
            with open(fd, "wb") as file:
                os.fchmod(fd, _FILE_MODE)
                yield file
        except BaseException:
            os.unlink(whole)
            raise

    def finish(self, record: Record) -> None:
        """Bring what was begun to disk. Raises OSError."""
        with self.create(_RECORD) as file:
            file.write(json.dumps(record.as_json(), indent=1).encode() + b"\n")
        _sync_all(self._fd)

    def switch(self) -> None:
        """Make what was begun and finished the current version; keep the one before only.

        Raises OSError; then both links lead where they did, and what was begun is gone. So they
        do when it is interrupted.
        """
        numbers = [int(name) for name in os.listdir(self._folder) if name.isdecimal()]
        number = str(max(numbers, default=0) + 1)
        links = {name: self._target(name) for name in _LINKS}
        os.rename(self._part, os.path.join(self._folder, number))
        try:
            os.fsync(self._fd)
            if links["current"] is not None:
                self._link("previous", links["current"])
            self._link("current", f"versions/{number}")
            sync_folder(self._root)
        except BaseException:  # an interrupt is one
            self._take_back(number, links)
            raise
        keep = {number, os.path.basename(self._target("previous") or "")}
        for old in {*map(str, numbers)} - keep:
            shutil.rmtree(os.path.join(self._folder, old), ignore_errors=True)

    def _take_back(self, number: str, links: Mapping[str, str | None]) -> None:
        """Have the links as before, and not this version; one that has to stay current stays."""
        for name, target in links.items():
            try:
                if self._target(name) == target:
                    continue
                if target is not None:
                    self._link(name, target)
                else:
                    os.unlink(os.path.join(self._root, name))
            except OSError:
                if name == "current":
                    return
        shutil.rmtree(os.path.join(self._folder, number), ignore_errors=True)

    def _target(self, name: str) -> str | None:
        """Where a link leads: to a version as this program writes it, however it was written.

        An operator who goes back by hand may have linked to ``previous``, or to ``versions/6/``.
        """
        path = os.path.join(self._root, name)
        try:
            target = os.readlink(path)
        except FileNotFoundError:
            return None
        folder, version = os.path.split(os.path.realpath(path))
        return f"versions/{version}" if folder == os.path.realpath(self._folder) else target

    def _link(self, name: str, target: str) -> None:
        """Have the symbolic link `name` point to `target`, from one moment to the next."""
        path, temporary = (os.path.join(self._root, n) for n in (name, f".{name}.part"))
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.rename(temporary, path)


def read_record(root: str) -> Record | None:
    """What the current version is; None where there is none. Raises OSError."""
    path = os.path.join(root, "current", _RECORD)
    try:
        with open(path, encoding="utf-8") as file:
            return parse_record(file.read(), path)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise OSError(errno.EBADMSG, _NO_RECORD, path) from None


def parse_record(text: str, name: str) -> Record:
    """A record as `Record.as_json` has made it; `name` is for errors. Raises OSError."""
    try:
        fields = json.loads(text)
        images = [_image(**image) for image in fields["images"]]
        return Record(fields["digest"], fields["bytes"], fields["received_at"], images)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise OSError(errno.EBADMSG, _NO_RECORD, name) from None


def _image(repository: str, tag: str, digest: str, bytes: int, absent: Sequence[str] = ()) -> Image:
    """An image as a record has it. Raises ValueError or TypeError for what cannot be one."""
    words = (repository, tag, digest, *absent)
    if not all(isinstance(word, str) for word in words) or not isinstance(bytes, int):
        raise TypeError(words)
    is_name = isinstance(parse(tag_link(repository, tag)), Link)
    if not is_name or not all(map(is_digest, (digest, *absent))):
        raise ValueError(words)
    return Image(repository, tag, digest, bytes, tuple(absent))


def prove_root(root: str) -> None:
    """Raise the OSError that making `Versions(root)` would raise for what is there, or rights."""
    if not root:
        # It would be the folder that this process happens to be in.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root)
    _prove_links(root)
    existing = os.path.abspath(root)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not stat.S_ISDIR(os.stat(existing).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), existing)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), existing)


def _prove_links(root: str) -> None:
    """Raise OSError where something else is in the place of a link to a version."""
    for name in _LINKS:
        path = os.path.join(root, name)
        if os.path.lexists(path) and not os.path.islink(path):
            # As when an engine was told to mount it before there was an image.
            kind = "a directory" if os.path.isdir(path) else "a file"
            reason = f"{path} is {kind}, in the place of a link to a version: move it away"
            raise FileExistsError(errno.EEXIST, reason)


def _make_folder(path: str) -> None:
    """Make a folder, and those above it that are missing, all to be read by others."""
    if os.path.isdir(path):
        return
    _make_folder(os.path.dirname(path))
    os.mkdir(path)
    os.chmod(path, _FOLDER_MODE)


def _sync_all(fd: int) -> None:
    """Bring all to disk that the file system of `fd` has: thousands of files in one go."""
    if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
