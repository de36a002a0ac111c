"""What the pieces of one buffer must be, as far as the server has told."""

from __future__ import annotations

from collections.abc import Sequence

from kollacast.files.tree_digest import bounds
from kollacast.wire.messages import BufferCtl
from kollacast.wire.pieces import Pieces


class ExpectedPieces:
    """The digests of the pieces of the buffer ``ctl``, whose packets are of ``capacity`` bytes."""

    def __init__(self, ctl: BufferCtl, capacity: int) -> None:
        #: The image's byte with which the buffer begins.
        self.offset = ctl.packet_id_base * capacity
        self._capacity = capacity
        self._bounds = bounds(self.offset, ctl.buffer_size)
        self._digests: list[bytes | None] = [None] * len(self._bounds)
        self._missing = len(self._bounds)

    @property
    def are_known(self) -> bool:
        """Whether all are."""
        return not self._missing

    def fit(self, part: Pieces) -> bool:
        """Whether the buffer has these pieces."""
        return part.first + len(part.digests) <= len(self._digests)

    def lack(self, part: Pieces) -> bool:
        """Whether the buffer has these pieces, and this would tell of them what is not known."""
        last = part.first + len(part.digests)
        return self.fit(part) and None in self._digests[part.first : last]

    def put(self, part: Pieces) -> None:
        """The server says so; what it has said before stays."""
        for number, digest in enumerate(part.digests, part.first):
            if self._digests[number] is None:
                self._digests[number] = digest
                self._missing -= 1

    def wrong(self, digests: Sequence[bytes]) -> list[int]:
        """The numbers of those whose digests, as the buffer has come, are not as told."""
        together = enumerate(zip(self._digests, digests, strict=True))
        return [number for number, (told, found) in together if told != found]

    def slots(self, number: int) -> tuple[int, int]:
        """The first and the last packet of the buffer, from 0 on, that have a part of a piece."""
        start, end = self._bounds[number]
        return start // self._capacity, (end - 1) // self._capacity
