"""The bytes that every contender carries, and the proof that a copy is the same."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from bench.machine import available_memory_bytes

_CHUNK_BYTES = 1024 * 1024
#: A file system in memory, so that no disk is measured; every contender writes to the same one.
_MEMORY = Path("/dev/shm")
_SPARE_BYTES = 256 * 1024 * 1024


class ImageError(Exception):
    """There is no room for images and copies; the message says how much is missing."""


@dataclass(frozen=True)
class Image:
    """A file of random bytes (nothing can compress it) and its SHA-256."""

    path: Path
    size: int
    sha256: str

    def differing(self, copies: list[Path]) -> list[str]:
        """One line for each copy that is not there or not the same; none when all is well."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            verdicts = pool.map(self._compare, copies)
            return [verdict for verdict in verdicts if verdict]

    def _compare(self, copy: Path) -> str | None:
        if not copy.exists():
            return f"{copy.name} is missing"
        if copy.stat().st_size != self.size:
            return f"{copy.name} has {copy.stat().st_size} bytes instead of {self.size}"
        return None if _sha256(copy) == self.sha256 else f"{copy.name} differs"


@contextmanager
def work_folder() -> Iterator[Path]:
    """A new folder in memory, removed with all that is in it at the end."""
    folder = Path(mkdtemp(prefix="bench-", dir=_MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_room(folder: Path, size: int) -> None:
    """ImageError when images and copies of `size` bytes in all do not fit into memory."""
    wanted = size + _SPARE_BYTES
    free = min(shutil.disk_usage(folder).free, available_memory_bytes())
    if free < wanted:
        raise ImageError(
            f"images and copies need {wanted >> 20} MiB in {folder.parent}, "
            f"{free >> 20} MiB are free"
        )


def make_image(folder: Path, size: int) -> Image:
    """An image of `size` bytes in `folder`."""
    path, digest = folder / f"image-{size}", hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, _CHUNK_BYTES):
            chunk = os.urandom(min(_CHUNK_BYTES, size - start))
            digest.update(chunk)
            file.write(chunk)
    return Image(path, size, digest.hexdigest())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
