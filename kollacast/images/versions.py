"""The versions of a registry's storage on a host, of which one is current, and how it gets so.

    DIR/versions/7/docker/registry/v2/…   one version; 7/.kollacast.json says what it is
    DIR/current  -> versions/7            the root directory of the registry that serves it
    DIR/previous -> versions/6            the version before, to go back to

A version gets its number when it is whole and on disk, and `current` then changes in one moment.
All is done in open folders: nobody else can have something written elsewhere by links.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

from kollacast.files import trusted_path
from kollacast.files.atomic_file import sync_folder
from kollacast.files.removal import remove_tree
from kollacast.files.room import DEFAULT_RESERVE, Room
from kollacast.images.archive import Writer
from kollacast.images.catalog import Image
from kollacast.images.layout import Link, is_digest, parse, tag_link

_RECORD = ".kollacast.json"
_NO_RECORD = "is no record of a received image"
_PART = ".incoming.part"
_LINKS = ("current", "previous")
_VERSIONS = "versions"
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

    def __init__(self, root: str, reserve: float = DEFAULT_RESERVE) -> None:
        """Make the folder if need be. Raises OSError, also when another process is at it.

        And when the place of a link to a version is taken by something else. `reserve` is the
        share of the file system that stays free.
        """
        _prove_links(root)
        self._path = os.path.abspath(root)
        #: Folders that were made for this, the innermost last.
        self._made: list[str] = []
        self._fds = ExitStack()
        self._part: int | None = None
        self._room = Room(reserve)
        try:
            _make_folders(self._path, self._made)
            self._root = self._open(self._path)
            path = os.path.join(self._path, _VERSIONS)
            _make_folders(path, self._made)
            self._folder = self._open(path)
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._folder).st_nlink:
                raise BlockingIOError  # who had made it has just removed it
        except BlockingIOError:
            self.close()
            raise OSError(errno.EBUSY, "another process receives an image there", root) from None
        except OSError:
            self.close()
            raise

    def _open(self, path: str) -> int:
        fd = trusted_path.open_folder(path)
        self._fds.callback(os.close, fd)
        return fd

    def close(self) -> None:
        """Let others change them. Folders that were made for nothing go."""
        self._end_part()
        for path in reversed(self._made):
            with suppress(OSError):  # as where there is a version in it
                os.rmdir(path)
        self._fds.close()

    def expect(self, size: int) -> None:
        """So many bytes are to come, or more. Raises OSError (ENOSPC) where they have no room."""
        self._room.prove(self._folder, size)

    def begin(self) -> None:
        """Begin a version; what was begun before, by whomever, is removed. Raises OSError."""
        self.discard()
        self._part = _new_folder(self._folder, _PART)

    def discard(self) -> None:
        """Remove what was begun. Raises OSError."""
        self._end_part()
        remove_tree(self._folder, _PART)

    def _end_part(self) -> None:
        if self._part is not None:
            os.close(self._part)
            self._part = None

    @contextmanager
    def create(self, path: str) -> Iterator[Writer]:
        """A new file in what was begun, in the place of one that is there. Raises OSError.

        When the context ends by an exception, there is none.
        """
        assert self._part is not None
        part = self._part
        self._room.take(part, 0, files=1)
        with open(_new_file(part, path), "wb") as file:
            try:
                os.fchmod(file.fileno(), _FILE_MODE)
                yield _Roomed(file, self._room)
            except BaseException:
                os.unlink(path, dir_fd=part)
                raise

    def finish(self, record: Record) -> None:
        """Bring what was begun to disk. Raises OSError."""
        with self.create(_RECORD) as file:
            file.write(json.dumps(record.as_json(), indent=1).encode() + b"\n")
        _sync_all(self._folder)

    def switch(self) -> None:
        """Make what was begun and finished the current version; keep the one before only.

        Raises OSError; then both links lead where they did, and what was begun is gone. So they
        do when it is interrupted.
        """
        numbers = [int(name) for name in os.listdir(self._folder) if name.isdecimal()]
        number = str(max(numbers, default=0) + 1)
        links = {name: self._target(name) for name in _LINKS}
        os.rename(_PART, number, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        try:
            os.fsync(self._folder)
            if links["current"] is not None:
                self._link("previous", links["current"])
            self._link("current", f"{_VERSIONS}/{number}")
            sync_folder(self._root)
        except BaseException:  # an interrupt is one
            self._take_back(number, links)
            raise
        keep = {number, os.path.basename(self._target("previous") or "")}
        for old in {*map(str, numbers)} - keep:
            self._remove(old)

    def _take_back(self, number: str, links: Mapping[str, str | None]) -> None:
        """Have the links as before, and not this version; one that has to stay current stays."""
        for name, target in links.items():
            try:
                if self._target(name) == target:
                    continue
                if target is not None:
                    self._link(name, target)
                else:
                    os.unlink(name, dir_fd=self._root)
            except OSError:
                if name == "current":
                    return
        self._remove(number)

    def _remove(self, number: str) -> None:
        with suppress(OSError):  # the next one is tried again with the next image
            remove_tree(self._folder, number)

    def _target(self, name: str) -> str | None:
        """Where a link leads: to a version as this program writes it, however it was written.

        An operator who goes back by hand may have linked to ``previous``, or to ``versions/6/``.
        """
        try:
            target = os.readlink(name, dir_fd=self._root)
        except FileNotFoundError:
            return None
        folder, version = os.path.split(os.path.realpath(os.path.join(self._path, name)))
        versions = os.path.realpath(os.path.join(self._path, _VERSIONS))
        return f"{_VERSIONS}/{version}" if folder == versions else target

    def _link(self, name: str, target: str) -> None:
        """Have the symbolic link `name` point to `target`, from one moment to the next."""
        temporary = f".{name}.part"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._root)
        os.symlink(target, temporary, dir_fd=self._root)
        os.rename(temporary, name, src_dir_fd=self._root, dst_dir_fd=self._root)


class _Roomed:
    """A file that is written as far as there is room."""

    def __init__(self, file: BinaryIO, room: Room) -> None:
        self._file = file
        self._room = room

    def write(self, data: bytes) -> None:
        self._room.take(self._file.fileno(), len(data))
        self._file.write(data)


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
    for path in (os.path.abspath(root), os.path.join(os.path.abspath(root), _VERSIONS)):
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        os.close(trusted_path.open_folder(path))
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def _prove_links(root: str) -> None:
    """Raise OSError where something else is in the place of a link to a version."""
    for name in _LINKS:
        path = os.path.join(root, name)
        if os.path.lexists(path) and not os.path.islink(path):
            # As when an engine was told to mount it before there was an image.
            kind = "a directory" if os.path.isdir(path) else "a file"
            reason = f"{path} is {kind}, in the place of a link to a version: move it away"
            raise FileExistsError(errno.EEXIST, reason)


def _make_folders(path: str, made: list[str]) -> None:
    """Make a folder, and those above it that are missing, all to be read by others.

    `made` is told each of them. Raises OSError.
    """
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        parent, name = trusted_path.open_parent(folder)
        try:
            os.close(_new_folder(parent, name))
        finally:
            os.close(parent)
        made.append(folder)


def _new_folder(parent: int, name: str) -> int:
    """Make a folder to be read by others, whatever the umask, and open it. Raises OSError."""
    os.mkdir(name, dir_fd=parent)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=parent)
    try:
        os.fchmod(fd, _FOLDER_MODE)
    except OSError:
        os.close(fd)
        raise
    return fd


def _new_file(part: int, path: str) -> int:
    """Open a new file at `path` in what is begun, whose folders nobody else can write to.

    In the place of one that is there. Raises OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, _FILE_MODE, dir_fd=part)
    except FileExistsError:
        os.unlink(path, dir_fd=part)
    except FileNotFoundError:
        missing = [os.path.dirname(path)]
        while missing:
            try:
                os.mkdir(missing[-1], dir_fd=part)
                os.chmod(missing.pop(), _FOLDER_MODE, dir_fd=part)
            except FileNotFoundError:
                missing.append(os.path.dirname(missing[-1]))
    return os.open(path, flags, _FILE_MODE, dir_fd=part)


def _sync_all(fd: int) -> None:
    """Bring all to disk that the file system of `fd` has: thousands of files in one go."""
    if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
