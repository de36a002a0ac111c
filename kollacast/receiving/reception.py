"""The buffers of one image as they come in: announced, received, repaired, flushed.

Each announced buffer is a :class:`~kollacast.receiving.flight.Flight`; flights
end in the order in which they were announced.  What the server says comes in
through the methods named after its messages.

A buffer is kept once it is complete and its pieces are what the server has said.
A piece that is wrong is lost: where its packets have come by multicast twice, they
are taken from the server's connection alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kollacast.events.guard import Guard
from kollacast.packets.buffer import InconsistentBuffer, PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.packets.losses import NOTHING_LOST, lost_of
from kollacast.receiving.answers import Answers, answers_of
from kollacast.receiving.connection import ServerConnection
from kollacast.receiving.flight import Flight
from kollacast.receiving.hearing import Hearing
from kollacast.receiving.output import Output, Writer
from kollacast.receiving.pieces import ExpectedPieces
from kollacast.receiving.shape import Shape
from kollacast.receiving.signatures import Signatures
from kollacast.receiving.tally import Tally
from kollacast.wire.messages import BufferCtl, Packet, Repaired, Request, Sent
from kollacast.wire.packets import PacketCodec
from kollacast.wire.pieces import Pieces, Want
from kollacast.wire.structures import WireError

_log = Logger()

#: How often a packet may arrive damaged by TCP before the server is given up.
_MAX_DAMAGED = 16
#: Packets for which a buffer has room, however few are announced: as many as most sessions ever do.
_LEAST_ROOM = 8192
#: How often a buffer may be refuted: by multicast, by multicast again, and by TCP never.
_MOST_REFUTED = 2
#: Seconds between two lines about wrong pieces.
_SAY_AGAIN_S = 10.0


class Reception:
    """Receives an image, or the rest of one, a window of buffers at a time, into ``output``.

    The first packet is ``first``, or what the first announcement says for None.
    :attr:`ended` fires when the empty buffer is sent and all before it is
    flushed.  ``guard`` is told of what goes wrong behind
    that, and callers of InconsistentBuffer, and of MemoryError where there is not
    enough for what is announced.
    """

    def __init__(
        self,
        clock: IReactorTime,
        connection: ServerConnection,
        shape: Shape,
        codec: PacketCodec,
        output: Output,
        tally: Tally,
        guard: Guard,
        signatures: Signatures,
        first: int | None,
    ) -> None:
        self.intake = Intake(
            codec, shape.capacity, coded=shape.dialect.codes, counts=tally, seal=shape.seal
        )
        self.ended: Deferred[None] = Deferred()
        #: Whether multicast reaches this host.
        self.hearing = Hearing(tally)
        self._clock = clock
        self._tally = tally
        self._connection = connection
        self._shape = shape
        self._codec = codec
        self._output = output
        self._guard = guard
        self._signatures = signatures
        self._answers: Answers = answers_of(connection, shape)
        self._keep: Writer | None = None
        self._flights: deque[Flight] = deque()
        self._free: list[PacketBuffer] = []
        self._unallocated = shape.window
        self._next_seq = first
        # The first announced buffer.
        self._first_id = 1 << 32
        self._end_announced = False
        self._damaged = 0
        # Wrong pieces of which no line has told, and when the last line did.
        self._unsaid = 0
        self._said_at = -_SAY_AGAIN_S
        self._stopped = False

    def stop(self) -> None:
        """The session is over: nothing more is sent, whatever still ends.

        The counts stay, and the memory goes back: a client may come back many times.
        """
        self._stopped = True
        self._flights.clear()
        self._free.clear()
        self.intake.close()

    # What the server says.

    def buffer(self, ctl: BufferCtl) -> None:
        """A buffer is announced."""
        ctl.check(self._shape.capacity, self._shape.buffer_packets)
        if len(self._flights) >= self._shape.window + self._shape.dialect.announced_ahead:
            raise WireError(f"a buffer beyond the window of {self._shape.window} is announced")
        if self._next_seq is None:
            self._next_seq = ctl.packet_id_base
        if self._end_announced or ctl.packet_id_base != self._next_seq:
            raise WireError(f"a buffer is announced that begins with seq {ctl.packet_id_base}")
        if self._keep is None:
            self._keep = self._output.writer(ctl.packet_id_base * self._shape.capacity)
            self._first_id = ctl.buffer_id
        self._next_seq += ctl.pkt_count
        if ctl.is_end:
            # No other buffer follows, so none is kept for it.
            self._end_announced = True
            self._free.clear()
        pieces = None
        if self._shape.pieces and not ctl.is_end:
            pieces = ExpectedPieces(ctl, self._shape.capacity)
        self._flights.append(Flight(ctl, pieces))
        self._answers.announced(ctl)
        self._make_ready()

    def sent(self, sent: Sent) -> None:
        """A buffer is multicast; :meth:`arrived` follows."""
        if 0 < sent.buffer_id < self._first_id:
            return  # others were told of it, before this host was in
        flight = next((f for f in self._flights if not f.sent), None)
        if flight is None or not (flight.ready or self._answers.is_ahead):
            raise WireError("SENT for a buffer that was not announced or is not ready")
        flight.sent = flight.asks = True
        if sent.packets or not sent.buffer_id:
            self.hearing.sent(flight, self._flights[-1].ctl.buffer_id)

    def repaired(self, told: Repaired) -> None:
        """Coded repairs of a buffer have been multicast; :meth:`arrived` follows."""
        for flight in self._flights:
            if flight.ctl.buffer_id == told.buffer_id:
                if told.count and flight.takes_multicast:
                    flight.parity.append(told.parity)
                flight.asks = True

    def pieces(self, part: Pieces) -> None:
        """The server says by TCP what pieces of a buffer must be; :meth:`arrived` follows."""
        flight = self._flight_of(part.buffer_id)
        if flight is None or flight.pieces is None:
            return
        if not flight.pieces.fit(part):
            raise WireError(f"digests of pieces that buffer {part.buffer_id} has not")
        flight.pieces.put(part)

    def pieces_by_multicast(self, seq: int, data: bytes) -> None:
        """The same in a packet; :meth:`arrived` follows."""
        signatures = self._signatures
        flight = self._flight_of(int.from_bytes(data[:4], "big"))
        if flight is None or flight.pieces is None or flight.pieces.are_known:
            return
        if not (signatures.are_due and signatures.may_read()):
            return  # anybody might say so
        try:
            part = Pieces.of_data(self._shape.dialect, signatures.body(data))
        except WireError:
            return
        if flight.pieces.lack(part) and signatures.are_right(seq, data):
            flight.pieces.put(part)

    def packet(self, packet: Packet) -> None:
        """A retransmission."""
        if not packet.payload:
            raise WireError(f"the server does not hold the packet {packet.seq} any more")
        payload = memoryview(packet.payload)
        for flight in self._flights:
            buffer = flight.buffer
            if buffer is not None and buffer.slot_of(packet.seq) is not None:
                break
        else:
            return
        if not self._codec.intact(packet.seq, packet.crc, payload):
            self._damaged += 1
            if self._damaged > _MAX_DAMAGED:
                raise WireError("the server's retransmissions are damaged")
            self._ask([packet.seq])
        elif not flight.flushing:
            if buffer.put(packet.seq, payload):
                self._tally.retransmitted += 1
            if buffer.complete:
                self.arrived()
            elif self.intake.came(buffer, packet.seq):
                flight.parity.append(None)
                self._begin_to_mend(flight)

    def arrived(self) -> None:
        """Packets have come, or word of them: ask for what is lost, flush what is complete."""
        self._ask_for_lost()
        self._ask_for_digests()
        # A flush that ends at once takes its flight out of the deque.
        for flight in tuple(self._flights):
            if self._stopped:
                return  # by what the flush before has met
            if not flight.flushing:
                if not flight.is_complete:
                    break
                self._flush(flight)
            if flight.proving or not flight.flushing:
                break  # bytes are digested and kept in order
        self._finish_flights()

    # How it goes on.

    def _flight_of(self, buffer_id: int) -> Flight | None:
        return next((f for f in self._flights if f.ctl.buffer_id == buffer_id), None)

    def _ask_for_digests(self) -> None:
        for flight in self._flights:
            if flight.sent and not flight.is_provable and not flight.has_wanted:
                flight.has_wanted = True
                self._connection.send(Want(flight.ctl.buffer_id).encode(self._shape.dialect))

    def _ask_for_lost(self) -> None:
        for flight in self._flights:
            if not flight.asks or not flight.ready or flight.mending:
                continue
            flight.asks = False
            buffer = flight.buffer
            missing = [] if buffer is None or buffer.complete else buffer.missing()
            if flight.lost is None:
                flight.lost = lost_of(missing)
            if not missing:
                flight.parity.clear()
            elif flight.parity:
                self._begin_to_mend(flight)
            else:
                self._ask(missing)

    def _begin_to_mend(self, flight: Flight) -> None:
        if not flight.mending:
            flight.mending = True
            self._guard.run(self._mend(flight))

    async def _mend(self, flight: Flight) -> None:
        """Solve for what is missing, slice by slice, then ask for what cannot be solved."""
        buffer, refuted = flight.buffer, flight.refuted
        assert buffer is not None
        for _ in self._mending(flight, buffer):
            await deferLater(self._clock, 0)
            if self._stopped or flight.flushing or flight.refuted != refuted:
                return  # late datagrams have brought it meanwhile
        flight.mending = flight.asks = False
        if not buffer.complete:
            self._ask(self.intake.needed(buffer))
        self.arrived()

    def _mending(self, flight: Flight, buffer: PacketBuffer) -> Iterator[None]:
        # Nothing at once: who has begun it goes through the flights, and this may end some.
        yield
        while flight.parity:
            yield from self.intake.mend(buffer, flight.parity.popleft())

    def _ask(self, seqs: list[int]) -> None:
        self._connection.stream.expect_packets(len(seqs))
        self._connection.send(Request(tuple(seqs)).encode(self._shape.dialect))

    def _make_ready(self) -> None:
        for flight in self._flights:
            if flight.ready:
                continue
            if not flight.ctl.is_end:
                try:
                    buffer = self._take_buffer(flight.ctl.pkt_count)
                except OSError as error:
                    going_round = sum(other.buffer is not None for other in self._flights)
                    if going_round:
                        # These have to do.
                        self._unallocated = 0
                        self._answers.fewer(going_round)
                        return
                    text = f"a buffer of {flight.ctl.pkt_count} packets: {error.strerror}"
                    raise MemoryError(f"no memory for {text}") from None
                if buffer is None:
                    return
                buffer.init(flight.ctl)
                flight.buffer = buffer
                self.intake.arm(buffer)
            flight.ready = True
            self._answers.ready()
        self._ask_for_lost()

    def _take_buffer(self, packets: int) -> PacketBuffer | None:
        """One for so many packets, or None for now.  Raises OSError when there is no memory."""
        if self._free:
            buffer = self._free.pop()
            if packets <= buffer.max_packets:
                return buffer
        elif self._unallocated:
            self._unallocated -= 1
        else:
            return None
        room = min(max(packets, _LEAST_ROOM), self._shape.buffer_packets)
        return PacketBuffer(self._shape.capacity, room)

    def _flush(self, flight: Flight) -> None:
        flight.flushing = True
        buffer = flight.buffer
        if buffer is None:
            flight.flushed = True
            return
        if flight.takes_multicast:
            self.intake.disarm(buffer)
        assert self._keep is not None
        if flight.pieces is None:
            keeping = self._keep(buffer.views(), None)
        elif misfits := buffer.misfits():
            self._refute(flight, buffer, [(slot, slot) for slot in misfits])
            return
        else:
            flight.proving = True
            keeping = self._keep(buffer.views(), flight.pieces)
        keeping.proved.addCallback(self._proved, flight, buffer).addErrback(self._guard.failed)
        keeping.kept.addCallback(self._flushed, flight).addErrback(self._guard.failed)

    def _proved(self, wrong: list[int], flight: Flight, buffer: PacketBuffer) -> None:
        """All of a buffer is the server's, and on its way to the output, but for these pieces."""
        if not flight.proving or self._stopped:
            return
        flight.proving = False
        if wrong:
            assert flight.pieces is not None
            self._refute(flight, buffer, list(map(flight.pieces.slots, wrong)))
        self.arrived()

    def _refute(
        self, flight: Flight, buffer: PacketBuffer, wrong: Sequence[tuple[int, int]]
    ) -> None:
        """From one slot to another, packets of a buffer are not the server's: they are lost."""
        self._say_wrong(flight, len(wrong))
        flight.refuted += 1
        if flight.refuted > _MOST_REFUTED:
            raise InconsistentBuffer("the server's own packets are not what it has said of them")
        for first, last in wrong:
            buffer.lose(first, last)
        flight.flushing = flight.mending = False
        flight.asks = flight.sent
        # The network has lost nothing of it.
        flight.lost = flight.lost or NOTHING_LOST
        flight.parity.clear()
        if flight.takes_multicast:
            self.intake.arm(buffer)

    def _say_wrong(self, flight: Flight, count: int) -> None:
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
            buffer_id=flight.ctl.buffer_id,
        )
        self._unsaid, self._said_at = 0, now

    def _flushed(self, _: None, flight: Flight) -> None:
        flight.flushed = True
        self._finish_flights()

    def _finish_flights(self) -> None:
        while self._flights and self._flights[0].flushed and self._flights[0].sent:
            if self._stopped:
                return
            flight = self._flights.popleft()
            self._answers.done(flight.ctl, flight.lost or NOTHING_LOST)
            if flight.buffer is not None:
                if not self._end_announced:
                    self._free.append(flight.buffer)
                self._make_ready()
            else:
                self._answers.settle()
                self.ended.callback(None)
        self._answers.settle()
