"""The digest of an image as a tree over its pieces, so that each of them can be proved by itself.

The tree has the shape of RFC 6962 (section 2.1), whatever the image's size: the left side of a
node is a perfect tree, as large as can be.  A leaf is BLAKE3 of a piece and a byte 0x00 behind it,
a node that of its two sides and a byte 0x01; an image without a byte is BLAKE3 of nothing.  The
RFC has the byte before, and BLAKE3 is half as fast where its input is one byte out of step.

A part of an image that begins or ends inside a piece has fragments there, which are digested as
pieces are: so the two sides of such a place are proved each with its part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from blake3 import blake3

#: Bytes of a piece: of every one but the last.
PIECE_SIZE = 65536

_LEAF = b"\x00"
_NODE = b"\x01"


def bounds(offset: int, size: int) -> list[tuple[int, int]]:
    """Where the pieces of a part of an image begin and end in it, fragments included.

    The part has ``size`` bytes, the first of which is the image's byte ``offset``.
    """
    if size <= 0:
        return []
    first = min(PIECE_SIZE - offset % PIECE_SIZE, size)
    edges = [0, *range(first, size, PIECE_SIZE), size]
    return list(pairwise(edges))


def count_pieces(offset: int, size: int) -> int:
    """How many :func:`bounds` there are."""
    return (offset + size - 1) // PIECE_SIZE - offset // PIECE_SIZE + 1 if size > 0 else 0


def digest_pieces(data: memoryview, offset: int) -> list[bytes]:
    """The digests, 32 bytes each, of the pieces of ``data``, which the image has at ``offset``."""
    return [_begin(data[start:end])() for start, end in bounds(offset, len(data))]


def _begin(data: memoryview) -> Callable[[], bytes]:
    hasher = blake3(data)
    hasher.update(_LEAF)
    return hasher.digest


def join(left: bytes, right: bytes) -> bytes:
    """The digest of a node with these two sides."""
    return blake3(left + right + _NODE).digest()


class Tree:
    """The leaves of a tree from the first on, as few digests as its size has ones in binary."""

    def __init__(self, join: Callable[[bytes, bytes], bytes] = join) -> None:
        self._join = join
        self._count = 0
        # Perfect trees, each of them larger than all behind it.
        self._perfect: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Add the next leaf's digest."""
        count = self._count
        while count & 1:
            leaf = self._join(self._perfect.pop(), leaf)
            count >>= 1
        self._perfect.append(leaf)
        self._count += 1

    def root(self, last: bytes | None = None) -> bytes | None:
        """The root, with one leaf more where there is a ``last`` one; None without any leaf."""
        tree = Tree(self._join)
        tree._count, tree._perfect = self._count, self._perfect.copy()
        if last is not None:
            tree.add(last)
        if not tree._perfect:
            return None
        root = tree._perfect.pop()
        while tree._perfect:
            root = self._join(tree._perfect.pop(), root)
        return root


class TreeDigest:
    """Digests an image from its start on; has the methods of hashlib's objects."""

    def __init__(self) -> None:
        self._tree = Tree()
        self._size = 0
        # The piece that has begun, where it comes in fragments.
        self._open: Any = None

    def update(self, data: memoryview) -> None:
        """Go on with these bytes."""
        self._take(data, None)

    def take(self, data: memoryview, digests: Sequence[bytes]) -> None:
        """Go on with these bytes, of which :func:`digest_pieces` has said the ``digests``."""
        self._take(data, digests)

    def digest(self) -> bytes:
        """The digest of all bytes so far."""
        root = self._tree.root(None if self._open is None else self._close())
        return blake3().digest() if root is None else root

    def _take(self, data: memoryview, digests: Sequence[bytes] | None) -> None:
        for index, (start, end) in enumerate(bounds(self._size, len(data))):
            if end - start == PIECE_SIZE:
                piece = data[start:end]
                self._tree.add(_begin(piece)() if digests is None else digests[index])
                continue
            if self._open is None:
                self._open = blake3()
            self._open.update(data[start:end])
            if (self._size + end) % PIECE_SIZE == 0:
                self._tree.add(self._close())
                self._open = None
        self._size += len(data)

    def _close(self) -> bytes:
        """The digest of the piece that has begun, as if it ended here."""
        hasher = self._open.copy()
        hasher.update(_LEAF)
        digest: bytes = hasher.digest()
        return digest
