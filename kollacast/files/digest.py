"""The digest that proves the whole image, named in the greeting."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ExpectedDigest:
    """The digest that an image must have, known from elsewhere."""

    name: str  #: one of `KNOWN_DIGESTS`
    value: bytes  #: of `DIGEST_SIZE` bytes

    def __str__(self) -> str:
        return f"{self.name}:{self.value.hex()}"


#: Names that a greeting may carry.
KNOWN_DIGESTS = ("sha256", "blake3")
#: Bytes of a digest, whichever it is.
DIGEST_SIZE = 32


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
