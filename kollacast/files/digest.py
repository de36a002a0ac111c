"""The digests that prove the whole image; the greeting names the one that both ends compare."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from kollacast.files.tree_digest import TreeDigest

_CONSTRUCTORS: dict[str, Any] = {"sha256": hashlib.sha256, "blake3": blake3, "tree": TreeDigest}
#: Names that a greeting may carry, and that an operator may give.
KNOWN_DIGESTS = tuple(_CONSTRUCTORS)
#: Bytes of a digest, whichever it is.
DIGEST_SIZE = 32


class Digester:
    """Digests an image piece by piece, in each way of ``names``, which are `KNOWN_DIGESTS`."""

    def __init__(self, *names: str) -> None:
        self._hashes = {name: _CONSTRUCTORS[name]() for name in names}

    def update(self, views: Sequence[memoryview]) -> None:
        """Go on with the bytes of ``views``; lets go of the GIL for large ones."""
        for view in views:
            for digest in self._hashes.values():
                digest.update(view)

    def take(self, view: memoryview, pieces: Sequence[bytes]) -> None:
        """Likewise, where the digests of its pieces are known: see `tree_digest.digest_pieces`."""
        for digest in self._hashes.values():
            if isinstance(digest, TreeDigest):
                digest.take(view, pieces)
            else:
                digest.update(view)

    def values(self) -> dict[str, bytes]:
        """The digests of all bytes so far, by their names."""
        return {name: digest.digest() for name, digest in self._hashes.items()}


@dataclass(frozen=True)
class ExpectedDigest:
    """The digest that an image must have, known from elsewhere."""

    name: str  #: one of `KNOWN_DIGESTS`
    value: bytes  #: of `DIGEST_SIZE` bytes

    def __str__(self) -> str:
        return f"{self.name}:{self.value.hex()}"


def names_of(expected: Iterable[ExpectedDigest]) -> tuple[str, ...]:
    """The ways in which an image has to be digested so that all can be compared."""
    return tuple(dict.fromkeys(digest.name for digest in expected))
