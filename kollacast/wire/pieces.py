"""The digests of a buffer's pieces, as they cross the network: told to all, and asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kollacast.wire.dialect import Dialect
from kollacast.wire.structures import PIECE_DIGEST_SIZE, Tag, WireError
from kollacast.wire.tagged import Decoding, TaggedMessage, body

#: Digests of one message by TCP at the most.
_MOST = 1024


@dataclass(frozen=True, slots=True)
class Want(TaggedMessage):
    """The client lacks digests of this buffer's pieces, and asks for all of them by TCP."""

    tag = Tag.WANT
    layout = "I"
    buffer_id: int


@dataclass(frozen=True, slots=True)
class Pieces(TaggedMessage):
    """The digests of some pieces of a buffer, from its piece number ``first`` on.

    The same fields cross the network by TCP, behind a count, and as the data of a packet.
    """

    tag = Tag.PIECES
    buffer_id: int
    first: int
    digests: tuple[bytes, ...]

    #: Bytes before the digests in a packet.
    HEAD_SIZE: ClassVar[int] = 8

    def encode(self, dialect: Dialect) -> bytes:
        count = body(dialect.byte_order, "I").pack(len(self.digests))
        return dialect.head(self.tag) + count + self.data(dialect)

    def data(self, dialect: Dialect) -> bytes:
        """What a packet carries."""
        head = body(dialect.byte_order, "2I").pack(self.buffer_id, self.first)
        return head + b"".join(self.digests)

    @classmethod
    def decode(cls, dialect: Dialect, limit: int) -> Decoding[Pieces]:
        (count,) = body(dialect.byte_order, "I").unpack((yield 4))
        if not 0 < count <= _MOST:
            raise WireError(f"the digests of {count} pieces")
        return cls.of_data(dialect, (yield cls.HEAD_SIZE + count * PIECE_DIGEST_SIZE))

    @classmethod
    def of_data(cls, dialect: Dialect, data: bytes) -> Pieces:
        """Read what a packet carries."""
        size = len(data) - cls.HEAD_SIZE
        if size <= 0 or size % PIECE_DIGEST_SIZE:
            raise WireError(f"digests of pieces in {len(data)} bytes")
        buffer_id, first = body(dialect.byte_order, "2I").unpack_from(data)
        starts = range(cls.HEAD_SIZE, len(data), PIECE_DIGEST_SIZE)
        return cls(buffer_id, first, tuple(data[at : at + PIECE_DIGEST_SIZE] for at in starts))


def in_parts(buffer_id: int, digests: Sequence[bytes], size: int | None = None) -> list[Pieces]:
    """All digests of a buffer, in parts whose data is of ``size`` bytes at the most.

    For None they are as large as a message by TCP may be.
    """
    most = _MOST if size is None else (size - Pieces.HEAD_SIZE) // PIECE_DIGEST_SIZE
    return [
        Pieces(buffer_id, first, tuple(digests[first : first + most]))
        for first in range(0, len(digests), most)
    ]
