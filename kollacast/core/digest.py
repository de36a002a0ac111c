"""The digest that proves the whole image, named in the greeting."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any


class Digester:
    """Digests an image piece by piece; ``name`` is one of :func:`available_digests`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._hash: Any = _constructor(name)()

    def update(self, views: Sequence[memoryview]) -> None:
        """Go on with the bytes of ``views``; lets go of the GIL for large ones."""
        for view in views:
            self._hash.update(view)

    def value(self) -> bytes:
        """The digest of all bytes so far."""
        value: bytes = self._hash.digest()
        return value


#: Names that a greeting may carry.
KNOWN_DIGESTS = ("sha256", "blake3")


def available_digests() -> tuple[str, ...]:
    """Those that this process can compute."""
    return tuple(name for name in KNOWN_DIGESTS if _constructor(name) is not None)


def _constructor(name: str) -> Any:
    if name == "sha256":
        return hashlib.sha256
    if name == "blake3":
        try:
            import blake3
        except ImportError:
            return None
        return blake3.blake3
    return None
