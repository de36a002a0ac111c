"""What the pieces of buffers must be, as far as the server has told, and what is said of others."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kollacast.files.tree_digest import bounds
from kollacast.receiving.tally import Tally
from kollacast.wire.messages import BufferCtl
from kollacast.wire.pieces import Pieces

_log = Logger()

#: Seconds between two lines about wrong pieces.
_SAY_AGAIN_S = 10.0


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


class WrongPieces:
    """Counts in ``tally`` those that were not the server's, and says so: at once, and summed up."""

    def __init__(self, clock: IReactorTime, tally: Tally) -> None:
        self._clock = clock
        self._tally = tally
        # Of which no line has told, and when the last line did.
        self._unsaid = 0
        self._said_at = -_SAY_AGAIN_S

    def found(self, count: int, buffer_id: int) -> None:
        """So many of this buffer."""
        self._tally.pieces_wrong += count
        self._unsaid += count
        now = self._clock.seconds()
        if now - self._said_at < _SAY_AGAIN_S:
            return
        _log.warn(
            "{count} pieces have come by multicast that are not the server's, the last of them of"
            " buffer {buffer_id}: somebody else sends to the group, or packets are damaged on their"
            " way. They are asked for again",
            event="pieces-wrong",
            count=self._unsaid,
            buffer_id=buffer_id,
        )
        self._unsaid, self._said_at = 0, now
