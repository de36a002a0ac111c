"""The buffers in flight: how many there may be, and which of them holds a packet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from twisted.internet.defer import DeferredSemaphore

from kollacast.congestion.control import FIRST_EPOCH, Epoch
from kollacast.packets.buffer import PacketBuffer
from kollacast.wire.parity import NO_PARITY, ParityRun


@dataclass(slots=True, eq=False)
class Flight:
    """A buffer under way; requests for its packets are good once it is ``sent``.

    ``epoch`` is the congestion control's when it began to leave, and ``sent_bps``
    how fast it did, 0 while that is not known.  ``has_left`` says that it was
    multicast, and that the kernel took it; ``ahead`` is the parity that left behind it
    unasked, and ``ahead_loss`` the share of it that was expected to be lost.
    """

    buffer: PacketBuffer
    sent: bool = False
    epoch: Epoch = FIRST_EPOCH
    sent_bps: float = 0.0
    has_left: bool = True
    ahead: ParityRun = NO_PARITY
    ahead_loss: float = 0.0


class Window:
    """At most ``size`` flights, announced or sent, oldest first."""

    def __init__(self, size: int) -> None:
        self.flights: deque[Flight] = deque()
        #: One is taken before a buffer is announced.
        self.places = DeferredSemaphore(size)

    def held(self, seq: int) -> PacketBuffer | None:
        """The multicast buffer that holds the packet ``seq``, if any does."""
        for flight in self.flights:
            if flight.sent and flight.buffer.slot_of(seq) is not None:
                return flight.buffer
        return None

    def holds_all(self, seqs: tuple[int, ...]) -> bool:
        """Whether every one of ``seqs`` is held; what is held is one run of seqs."""
        return not seqs or (self.held(min(seqs)) is not None and self.held(max(seqs)) is not None)
