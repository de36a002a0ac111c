"""The buffers of one image as they come in: announced, received, repaired, flushed.

Each announced buffer is a :class:`_Flight`; flights end in the order in which
they were announced.  What the server says comes in through the methods named
after its messages, and answers leave through ``send``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kollacast.events.guard import Guard
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.packets.losses import NOTHING_LOST, Lost, lost_of
from kollacast.receiving.answers import Answers, answers_of
from kollacast.receiving.connection import ServerConnection
from kollacast.receiving.output import Output, Writer
from kollacast.receiving.shape import Shape
from kollacast.receiving.tally import Tally
from kollacast.wire.messages import BufferCtl, Packet, Repaired, Request, Sent
from kollacast.wire.packets import PacketCodec
from kollacast.wire.parity import ParityRun
from kollacast.wire.structures import WireError

_log = Logger()

#: How often a packet may arrive damaged by TCP before the server is given up.
_MAX_DAMAGED = 16
#: Packets for which a buffer has room, however few are announced: as many as most sessions ever do.
_LEAST_ROOM = 8192
#: So many buffers in a row, each of at least so many packets, are not lost by chance.
_UNHEARD = 2
_MANY_PACKETS = 64


@dataclass(slots=True, eq=False)
class _Flight:
    """One announced buffer: how far it is."""

    ctl: BufferCtl
    buffer: PacketBuffer | None = None
    ready: bool = False
    sent: bool = False
    asks: bool = False  #: what is missing is to be asked for
    #: What was missing once it was sent; None until that was looked for.
    lost: Lost | None = None
    flushing: bool = False
    flushed: bool = False
    mending: bool = False
    #: Parity that is to be made use of, and None where packets have come that complete it.
    parity: deque[ParityRun | None] = field(default_factory=deque)


@dataclass(slots=True)
class Silence:
    """Buffers in a row of which nothing came."""

    since: int  #: the first one's id
    is_new: bool  #: whether something has come before them
    in_flight_id: int  #: of the last buffer that was announced when the first one was missed
    buffers: int = 0  #: how many of them count
    packets: int = 0  #: of all of them


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
        first: int | None,
    ) -> None:
        self.intake = Intake(
            codec, shape.capacity, coded=shape.dialect.codes, counts=tally, seal=shape.seal
        )
        self.ended: Deferred[None] = Deferred()
        #: Called when buffers go by of which no datagram has come.
        self.silent: Callable[[Silence], None] = lambda silence: None
        #: Called when a buffer has brought nothing: the host should join the group anew.
        self.renew: Callable[[], None] = lambda: None
        self._clock = clock
        self._tally = tally
        self._silence: Silence | None = None
        self._came_before = _came(tally)
        self._damaged_before = tally.damaged
        self._connection = connection
        self._shape = shape
        self._codec = codec
        self._output = output
        self._guard = guard
        self._answers: Answers = answers_of(connection, shape)
        self._keep: Writer | None = None
        self._flights: deque[_Flight] = deque()
        self._free: list[PacketBuffer] = []
        self._unallocated = shape.window
        self._next_seq = first
        # The first announced buffer.
        self._first_id = 1 << 32
        self._end_announced = False
        self._damaged = 0
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
        self._flights.append(_Flight(ctl))
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
            self._listen(flight)

    def repaired(self, told: Repaired) -> None:
        """Coded repairs of a buffer have been multicast; :meth:`arrived` follows."""
        for flight in self._flights:
            if flight.ctl.buffer_id == told.buffer_id:
                if told.count:
                    flight.parity.append(told.parity)
                flight.asks = True

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
        # A flush that ends at once takes its flight out of the deque.
        for flight in tuple(self._flights):
            if self._stopped:
                return  # by what the flush before has met
            if flight.flushing:
                continue
            if not flight.ready or (flight.buffer is not None and not flight.buffer.complete):
                break
            self._flush(flight)
        self._finish_flights()

    # How it goes on.

    def _listen(self, flight: _Flight) -> None:
        """A buffer was sent: has anything of it come by multicast?"""
        tally, buffer = self._tally, flight.buffer
        damaged, self._damaged_before = self._damaged_before, tally.damaged
        if buffer is None:
            return
        packets = flight.ctl.pkt_count
        if buffer.missing_count < packets or damaged < tally.damaged:
            if self._silence is not None and self._silence.buffers >= _UNHEARD:
                _log.info(
                    "multicast reaches this host again",
                    event="host-reached-again",
                    buffer=flight.ctl.buffer_id,
                )
            self._silence = None
            return
        if packets < _MANY_PACKETS:
            return
        silence = self._silence
        if silence is None:
            is_new = _came(tally) > self._came_before
            last_id = self._flights[-1].ctl.buffer_id
            silence = self._silence = Silence(flight.ctl.buffer_id, is_new, last_id)
            self.renew()
        silence.packets += packets
        # A link that was down for a moment costs as many buffers as were under way, and no more.
        if silence.is_new and flight.ctl.buffer_id <= silence.in_flight_id:
            return
        silence.buffers += 1
        if silence.buffers == _UNHEARD:
            self.silent(silence)

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

    def _begin_to_mend(self, flight: _Flight) -> None:
        if not flight.mending:
            flight.mending = True
            self._guard.run(self._mend(flight))

    async def _mend(self, flight: _Flight) -> None:
        """Solve for what is missing, slice by slice, then ask for what cannot be solved."""
        buffer = flight.buffer
        assert buffer is not None
        for _ in self._mending(flight, buffer):
            await deferLater(self._clock, 0)
            if self._stopped or flight.flushing:
                return  # late datagrams have brought it meanwhile
        flight.mending = flight.asks = False
        if not buffer.complete:
            self._ask(self.intake.needed(buffer))
        self.arrived()

    def _mending(self, flight: _Flight, buffer: PacketBuffer) -> Iterator[None]:
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

    def _flush(self, flight: _Flight) -> None:
        flight.flushing = True
        buffer = flight.buffer
        if buffer is None:
            flight.flushed = True
            return
        self.intake.disarm(buffer)
        assert self._keep is not None
        kept = self._keep(buffer.views())
        kept.addCallback(self._flushed, flight).addErrback(self._guard.failed)

    def _flushed(self, _: None, flight: _Flight) -> None:
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


def _came(tally: Tally) -> int:
    """How many datagrams have come."""
    return tally.placed + tally.repeated + tally.damaged
