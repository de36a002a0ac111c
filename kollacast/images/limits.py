"""What an image file may ask of a host: limits far above what a cluster needs, and below any harm.

An image file is made by somebody else, and a few hundred bytes of one can name a million folders.
docs/kolla.md has the limits in a table; whoever goes beyond one is refused with it in words.
"""

from __future__ import annotations

import json
import re
from typing import Any

from kollacast.images.layout import BadImage, quoted

#: Bytes of a member's name, and folders in it. A registry's own have 700 and 140 at the most.
MAX_NAME = 1024
MAX_DEPTH = 160
#: Members of an archive: files, folders and what is left out.
MAX_MEMBERS = 1_000_000
#: Files and folders that are made. A cluster of a thousand images has 100,000.
MAX_INODES = 400_000
#: As many for any image file, however small, and one more for so many bytes of it.
_FREE_INODES = 20_000
_BYTES_AN_INODE = 2
#: Bytes of a blob that any image file may have, and so many more for each of its own. Layers are
#: compressed already; an image file from uncompressed ones is a tenth of them.
_FREE_BYTES = 4 * 1024**3
_GROWTH = 100

#: Brackets, commas and colons in JSON, and brackets in each other.
_MAX_MARKS = 200_000
_MAX_DEPTH_OF_JSON = 32
#: A string, or a bracket. It never has to go back, whatever the bytes.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Account:
    """What one image file has asked for so far; each method raises BadImage beyond a limit."""

    def __init__(self) -> None:
        self.bytes_in = 0  #: of the image file, as it came
        self._members = 0
        self._bytes_out = 0
        self._inodes = 0
        #: Hashes of the folders that are there, in place of their names.
        self._folders: set[int] = set()

    def member(self, name: str) -> None:
        """There is a member of this name."""
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise BadImage(f"it has more than {MAX_MEMBERS} members")
        prove_name(name)

    def file(self, path: str) -> None:
        """A file with this path is made, and the folders that lead to it."""
        self._inodes += 1
        end = path.rfind("/")
        while end > 0:
            folder = hash(path[:end])
            if folder in self._folders:
                break
            self._folders.add(folder)
            end = path.rfind("/", 0, end)
        found = self._inodes + len(self._folders)
        free = _FREE_INODES + self.bytes_in // _BYTES_AN_INODE
        if found > MAX_INODES:
            raise BadImage(f"it has more than {MAX_INODES} files and folders")
        if found > free:
            raise BadImage(
                f"it has more than {free} files and folders, in its first {self.bytes_in} bytes"
            )

    def content(self, size: int) -> None:
        """So many more bytes have come out of it."""
        self._bytes_out += size
        if self._bytes_out > _FREE_BYTES + self.bytes_in * _GROWTH:
            raise BadImage(
                f"it has more than {_FREE_BYTES + self.bytes_in * _GROWTH} bytes of content, in its"
                f" first {self.bytes_in} bytes"
            )


def prove_name(name: str) -> None:
    """Raise BadImage where no file of a registry's storage can have this name in an archive."""
    if len(name) > MAX_NAME or len(name.encode(errors="replace")) > MAX_NAME:
        raise BadImage(f"its member {quoted(name)} has a name of more than {MAX_NAME} bytes")
    if name.count("/") > MAX_DEPTH:
        raise BadImage(f"its member {quoted(name)} is more than {MAX_DEPTH} folders deep")
    if _CONTROL.search(name):
        raise BadImage(f"its member {quoted(name)} has a control character in its name")


def read_json(data: bytes) -> Any:
    """What the JSON in `data` says.

    Raises ValueError where it is none, or has more values or deeper ones than any about an image:
    each takes a hundred bytes. How long `data` is, is for the caller to limit.
    """
    if sum(map(data.count, (b"[", b"{", b",", b":"))) > _MAX_MARKS:
        raise ValueError(f"more than {_MAX_MARKS} values in JSON")
    depth = 0
    for token in _TOKEN.finditer(data):
        first = data[token.start()]
        depth += (first in b"[{") - (first in b"]}")
        if depth > _MAX_DEPTH_OF_JSON:
            raise ValueError(f"more than {_MAX_DEPTH_OF_JSON} brackets in each other")
    return json.loads(data)


def prove_extended_header(data: bytes) -> None:
    """Raise BadImage unless these are the records of a pax header, each as long as it says.

    The format is that of POSIX.1-2008 (pax, Extended Header). Records that reach into each other
    are taken by tarfile, and each of its keys is then as long as all that follows.
    """
    at = 0
    while at < len(data) and data[at]:
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or end <= match.end() or data[end - 1 : end] != b"\n":
            raise BadImage("it has an extended header that makes no sense")
        at = end


#: Length and keyword of a record.
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=\n]{1,200})=")
