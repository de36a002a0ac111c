"""Unpacks an image file that lies on this host, as a client does with one that comes in."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from typing import BinaryIO

from kollacast.files.room import DEFAULT_RESERVE
from kollacast.images.registry_sink import RegistrySink
from kollacast.images.tar import PIECE
from kollacast.images.versions import read_record


def unpack_file(
    file: BinaryIO, root: str, say: Callable[[str], object], reserve: float = DEFAULT_RESERVE
) -> bool:
    """Make the image in `file` the current version in `root`; `say` what is to be known of it.

    `reserve` is the share of the file system that stays free. Returns False when it was that
    before. Raises OSError, BadImage among them, and then the version before is still the current
    one.
    """
    record = read_record(root)
    found = os.fstat(file.fileno())
    if record is not None and record.bytes == found.st_size:
        if record.digest == _read(file, None):
            return False
        file.seek(0)
    sink = RegistrySink(root, say, reserve)
    try:
        if stat.S_ISREG(found.st_mode):
            sink.expect(found.st_size)
        sink.commit(_read(file, sink))
    finally:
        sink.abandon()
        sink.clear()
    return True


def _read(file: BinaryIO, sink: RegistrySink | None) -> str:
    """Read the rest of `file`, and return its digest as a record has it."""
    digester = hashlib.sha256()
    offset = 0
    while data := file.read(PIECE):
        digester.update(data)
        if sink is not None:
            sink.write([memoryview(data)], offset)
        offset += len(data)
    return f"sha256:{digester.hexdigest()}"
