"""Fetches the rest of an image packet by packet over TCP, in order and at this host's pace."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from kollacast.events.guard import Guard
from kollacast.receiving.connection import ServerConnection
from kollacast.receiving.output import Output
from kollacast.receiving.shape import Shape
from kollacast.receiving.tally import Tally
from kollacast.wire.messages import BufferCtl, Fetch, Packet
from kollacast.wire.packets import PacketCodec
from kollacast.wire.structures import MAX_FETCH, SEQ_LIMIT, WireError

#: Payload bytes asked for at a time, and how many such pieces may be under way: enough for the
#: delay of a long line, and little beside what receiving by multicast takes.
_PIECE = 1024 * 1024
_PIECES = 4


class Fetcher:
    """Goes on where ``output`` stands, up to the packet ``limit``, or to the image's end.

    :attr:`ended` fires when all is kept.  ``guard`` is told of what cannot be.
    :attr:`over` says whether all packets have come.
    """

    def __init__(
        self,
        connection: ServerConnection,
        shape: Shape,
        codec: PacketCodec,
        output: Output,
        tally: Tally,
        guard: Guard,
        limit: int,
    ) -> None:
        self.ended: Deferred[None] = Deferred()
        self.over = False
        self._connection = connection
        self._dialect = shape.dialect
        self._codec = codec
        self._tally = tally
        self._guard = guard
        self._capacity = shape.capacity
        self._keep = output.writer(output.bytes_kept)
        self._piece_packets = min(max(_PIECE // shape.capacity, 1), MAX_FETCH)
        # The last packet of an image is short: once that is kept, nothing is left.
        self._expected = self._asked = -(-output.bytes_kept // shape.capacity)
        self._kept_up_to = self._asked
        self._limit = limit
        self._payloads: list[bytes] = []
        self._stopped = False

    def start(self) -> None:
        """Ask for as much as there is room for."""
        piece = self._piece_packets
        while not self.over and not self._stopped:
            count = min(piece, self._limit - self._asked)
            if count <= 0 or self._asked + count - self._kept_up_to > _PIECES * piece:
                break
            self._connection.send(Fetch(self._asked, count).encode(self._dialect))
            self._asked += count
        self._consider_limit()

    def lift_limit(self) -> None:
        """Go on to the end of the image; only before :attr:`ended` fires."""
        self._limit = SEQ_LIMIT
        self.over = False
        self.start()

    def stop(self) -> None:
        """The connection or the session is over: nothing more is asked for."""
        self._stopped = True

    # What the server says.

    def packet(self, packet: Packet) -> None:
        """The next packet of the image."""
        if packet.seq != self._expected or packet.seq >= self._asked or not packet.payload:
            raise WireError(f"the packet {packet.seq} comes where {self._expected} is due")
        if self.over or (self._payloads and len(self._payloads[-1]) < self._capacity):
            raise WireError(f"the packet {packet.seq} comes behind the end of the image")
        if not self._codec.intact(packet.seq, packet.crc, memoryview(packet.payload)):
            # It will be another one on another connection.
            self._connection.abort()
            return
        self._expected += 1
        self._tally.fetched += 1
        self._payloads.append(packet.payload)
        if len(self._payloads) == self._piece_packets:
            self._keep_payloads()
        self._consider_limit()

    def end(self, ctl: BufferCtl) -> None:
        """The image has no more packets."""
        if not ctl.is_end or self.over:
            raise WireError("a buffer is announced to a client that fetches by itself")
        if ctl.packet_id_base != self._expected:
            raise WireError(
                f"the image ends with packet {ctl.packet_id_base}, and {self._expected} are here"
            )
        self._finish()

    # How it goes on.

    def _consider_limit(self) -> None:
        if self._expected >= self._limit and not self.over:
            self._finish()

    def _finish(self) -> None:
        """All has come."""
        self.over = True
        if self._payloads:
            self._keep_payloads()
        self._consider_end()

    def _keep_payloads(self) -> None:
        data = b"".join(self._payloads)
        count = len(self._payloads)
        self._payloads.clear()
        kept = self._keep([memoryview(data)], None).kept
        kept.addCallback(self._kept, count).addErrback(self._guard.failed)

    def _kept(self, _: None, count: int) -> None:
        self._kept_up_to += count
        self.start()
        self._consider_end()

    def _consider_end(self) -> None:
        if self.over and self._kept_up_to == self._expected and not self._stopped:
            self._stopped = True
            self.ended.callback(None)
