"""One announced buffer at a client, from its announcement until it is kept."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.losses import Lost
from kollacast.receiving.pieces import ExpectedPieces
from kollacast.wire.messages import BufferCtl
from kollacast.wire.parity import ParityRun


@dataclass(slots=True, eq=False)
class Flight:
    """How far it is."""

    ctl: BufferCtl
    #: what its pieces must be; None where the server does not tell
    pieces: ExpectedPieces | None = None
    buffer: PacketBuffer | None = None
    ready: bool = False
    sent: bool = False
    asks: bool = False  #: what is missing is to be asked for
    #: What was missing once it was sent; None until that was looked for.
    lost: Lost | None = None
    flushing: bool = False
    proving: bool = False
    flushed: bool = False
    mending: bool = False
    has_wanted: bool = False  #: whether it has asked for the digests of its pieces
    #: How often it was complete and had pieces that were not the server's.
    refuted: int = 0
    #: Parity that is to be made use of, and None where packets have come that complete it.
    parity: deque[ParityRun | None] = field(default_factory=deque)

    @property
    def is_provable(self) -> bool:
        """Whether it can be told what of it is the server's, or nobody tells."""
        return self.pieces is None or self.pieces.are_known

    @property
    def is_complete(self) -> bool:
        """Whether all has come that it takes to keep it."""
        has_all = self.buffer is None or self.buffer.complete
        return self.ready and has_all and self.is_provable

    @property
    def takes_multicast(self) -> bool:
        """Whether what is multicast is believed: not where it was wrong twice."""
        return self.refuted < 2
