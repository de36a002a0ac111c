"""Where multicast packets land: into the place where the next ones belong.

The packets of a batch usually follow the ones before, so the kernel is given
the slots behind the last packet seen (:meth:`Intake.landing`).  A batch that
turns out to be those very packets is verified in place and marked; any other
is moved to a scratch buffer and copied from there, run by run, to where its
seqs say.

A batch that is longer than the free slots goes on into the scratch buffer,
and so nothing that has arrived already is ever overwritten.

Packets that are sealed land in the scratch buffer, and are opened from there
into another one, out of which they are copied likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kollacast.packets.buffer import PacketBuffer
from kollacast.repair import Decoder
from kollacast.wire.messages import BufferCtl
from kollacast.wire.packets import Opened, PacketCodec, header_at
from kollacast.wire.parity import ParityRun
from kollacast.wire.recipes import CONTROL_BASE
from kollacast.wire.sealing import SEAL_SIZE, Seal
from kollacast.wire.structures import SEQ_LIMIT

#: The most packets of one batch: what recvmmsg is asked for at once, and more
#: than the 45 packets of 1472 bytes that one coalesced datagram can hold.
BATCH = 64
#: The most that are verified in one go: four coalesced datagrams, and room for a fifth.
RUN = 240


@dataclass(slots=True)
class Landing:
    """Slots for the next batch: ``room`` of ``buffer`` from ``slot`` on, then scratch ones."""

    buffer: PacketBuffer
    slot: int
    room: int


@dataclass(slots=True)
class IntakeCounts:
    """Packets by what became of them."""

    placed: int = 0
    decoded: int = 0
    repeated: int = 0
    damaged: int = 0


class Intake:
    """The buffers that are being received, oldest first.

    ``coded`` says whether the reserved seqs mean coded repairs; packets are added to ``counts``.
    With a ``seal`` only those are taken which it opens.
    """

    def __init__(
        self,
        codec: PacketCodec,
        capacity: int,
        *,
        coded: bool = True,
        counts: IntakeCounts | None = None,
        seal: Seal | None = None,
    ) -> None:
        self.counts = counts or IntakeCounts()
        self.capacity = capacity
        self._seal = seal
        # Payload bytes of a full packet as it comes.
        self._full = capacity + (0 if seal is None else SEAL_SIZE)
        # The first slots are for what is moved, the last ones for what overflows a landing.
        self.scratch = PacketBuffer(self._full, RUN + BATCH)
        self.scratch.init(BufferCtl(0, 0, 0, RUN + BATCH))
        self._layout = self.scratch.layout
        self.stride = self._layout.stride
        self._codec = codec
        self._decoder: Decoder | None = Decoder(capacity, self) if coded else None
        self._buffers: list[PacketBuffer] = []
        #: Told seq and data of each control packet, between the packets before and after it.
        self.control: Callable[[int, bytes], None] = lambda seq, data: None
        self._expected = 0
        self._full_sizes = (self._full,) * RUN
        # What the scratch slots hold, opened.
        self._opened = self.scratch
        if seal is not None:
            self._opened = PacketBuffer(capacity, RUN)
            self._opened.init(BufferCtl(0, 0, 0, RUN))

    def arm(self, buffer: PacketBuffer) -> None:
        """Receive into ``buffer`` from now on; its packets follow all others'."""
        if not self._buffers:
            self._expected = buffer.ctl.packet_id_base
        self._buffers.append(buffer)
        if self._decoder is not None:
            self._decoder.expect()

    def disarm(self, buffer: PacketBuffer) -> None:
        """Let nothing more land in ``buffer``."""
        self._buffers.remove(buffer)
        if self._decoder is not None:
            self._decoder.forget(_seqs(buffer))

    def close(self) -> None:
        """Let nothing more land in any buffer."""
        self._buffers.clear()

    def landing(self, most: int = BATCH) -> Landing:
        """The slots where the next batch most likely belongs, ``most`` of them up to `RUN`."""
        if self._seal is not None:
            return Landing(self.scratch, 0, most)
        buffer = self._buffer_of(self._expected)
        if buffer is not None:
            slot = self._expected - buffer.ctl.packet_id_base
            room = buffer.vacant_run(slot, most)
            if room:
                return Landing(buffer, slot, room)
        return Landing(self.scratch, 0, 0)

    def vector(self, landing: Landing, packets: int) -> list[memoryview]:
        """Header and payload views of ``packets`` slots, for a scattering read."""
        room = min(landing.room, packets)
        vector = landing.buffer.vector(landing.slot, room)
        return vector + self.scratch.vector(RUN, packets - room)

    def landed(self, landing: Landing, count: int) -> None:
        """So many full packets lie in the landing's first slots, of one run or of several."""
        self._take(landing.buffer, landing.slot, self._full_sizes[:count])

    def is_expected(self, landing: Landing, slot: int) -> bool:
        """Whether what has come into a slot of the landing says that it belongs there."""
        buffer = landing.buffer
        if buffer is self.scratch:
            return True  # there no packet is out of place
        return self._codec.seq(buffer.headers, slot) == buffer.ctl.packet_id_base + slot

    def coalesced(self, landing: Landing, length: int, segment: int) -> None:
        """``length`` bytes have been scattered over the landing's vector.

        They are datagrams of ``segment`` bytes each but for the last one,
        which may be shorter.
        """
        if segment != self.stride and length > segment:
            vector = self.vector(landing, BATCH)
            data = b"".join(vector)[:length]
            for start in range(0, length, segment):
                self.datagram(data[start : start + segment])
            return
        count, last = self._layout.cut(length)
        in_place = min(count, landing.room)
        if in_place == count:
            self._take(landing.buffer, landing.slot, self._sizes(count, last))
            return
        if in_place:
            self._take(landing.buffer, landing.slot, self._sizes(in_place, self._full))
        self._take(self.scratch, RUN, self._sizes(count - in_place, last))

    def frames(self, landing: Landing, lengths: Sequence[int]) -> None:
        """One datagram of each of ``lengths`` bytes lies in a slot of its own.

        They lie in the landing's slots if it has room, else in the scratch ones.
        """
        if lengths.count(self.stride) == len(lengths):
            sizes = self._full_sizes[: len(lengths)]
        else:
            sizes = self._layout.payload_sizes(lengths)
        self._take(landing.buffer, landing.slot, sizes)

    def datagram(self, data: bytes) -> None:
        """One datagram of any shape, from any other place."""
        size = self._layout.payload_size(len(data))
        if not 0 < size <= self._full:
            self.counts.damaged += 1
            return
        self.scratch.headers[header_at(0)] = data[:-size]
        self.scratch.payload[:size] = data[-size:]
        self._take(self.scratch, 0, (size,))

    def _sizes(self, count: int, last: int) -> tuple[int, ...]:
        if last == self._full:
            return self._full_sizes[:count]
        return (*self._full_sizes[: count - 1], last)

    def _buffer_of(self, seq: int) -> PacketBuffer | None:
        for buffer in self._buffers:
            if 0 <= seq - buffer.ctl.packet_id_base < buffer.ctl.pkt_count:
                return buffer
        return None

    def _take(self, store: PacketBuffer, slot: int, sizes: tuple[int, ...]) -> None:
        """Verify the packets in these slots of ``store`` and place each."""
        count = len(sizes)
        payloads = store.payloads[slot : slot + count]
        if sizes.count(self._full) != count:
            if self._is_noise(store, slot, sizes):
                return
            payloads = [p[: max(s, 0)] for p, s in zip(payloads, sizes, strict=True)]
        first = store.ctl.packet_id_base + slot
        if (
            store is not self.scratch
            and min(sizes) > 0
            and self._codec.seq(store.headers, slot) == first
            and self._codec.are_sealed(store.headers, slot, first, payloads)
        ):
            self.counts.placed += store.mark(slot, sizes)
            self._expected = first + count
            return
        if self._is_noise(store, slot, sizes):
            return
        origin = slot
        if store is not self.scratch:
            # Packets are about to be copied forward over each other's slots.
            start = slot * self.capacity
            self.scratch.payload[: count * self.capacity] = store.payload[
                start : start + count * self.capacity
            ]
            payloads = [p[: max(s, 0)] for p, s in zip(self.scratch.payloads, sizes, strict=False)]
            origin = 0
        opened = self._codec.open(store.headers, slot, payloads, sizes)
        if self._seal is None:
            self._place(origin, opened, payloads, sizes)
        else:
            self._open(self._seal, opened, payloads)

    def _open(self, seal: Seal, opened: Opened, sealed: list[memoryview]) -> None:
        """Open and place what has come sealed."""
        seqs, intact = opened
        sizes = tuple([max(len(data) - SEAL_SIZE, 0) for data in sealed])
        payloads = self._opened.payloads[: len(sizes)]
        if sizes.count(self.capacity) != len(sizes):
            payloads = [p[:s] for p, s in zip(payloads, sizes, strict=True)]
        if 0 in sizes:
            # No more than a tag, or less.
            intact = bytes([ok if size else 0 for ok, size in zip(intact, sizes, strict=True)])
        is_open = seal.open(seqs, intact, sealed, payloads)
        self._place(0, Opened(seqs, is_open), payloads, sizes)

    def _is_noise(self, store: PacketBuffer, slot: int, sizes: tuple[int, ...]) -> bool:
        """Whether these are no packets at all: who sends such is to cost no more than a look."""
        if self._codec.fit(store.headers, slot, sizes):
            return False
        self.counts.damaged += len(sizes)
        return True

    def _place(
        self,
        origin: int,
        opened: Opened,
        payloads: list[memoryview],
        sizes: tuple[int, ...],
    ) -> None:
        """Copy the packets in the opened slots from ``origin`` on to where they belong.

        ``sizes`` are the bytes of their ``payloads``.
        """
        seqs, intact = opened
        start = 0
        while start < len(seqs):
            if not intact[start]:
                end = intact.find(1, start)
                end = len(seqs) if end < 0 else end
                self.counts.damaged += end - start
                start = end
                continue
            buffer = self._buffer_of(seqs[start])
            # A run that begins outside all buffers may go on into one.
            end = start + 1
            if buffer is not None:
                slot = seqs[start] - buffer.ctl.packet_id_base
                run = self._run_end(seqs, start) - start
                end = start + max(buffer.vacant_run(slot, run), 1)
                if (
                    intact.find(0, start, end) < 0
                    and sizes[start:end].count(self.capacity) == end - start
                    and buffer.vacant_run(slot, 1)
                ):
                    size = (end - start) * self.capacity
                    target = slot * self.capacity
                    source = (origin + start) * self.capacity
                    buffer.payload[target : target + size] = self._opened.payload[
                        source : source + size
                    ]
                    self.counts.placed += buffer.mark(slot, sizes[start:end])
                    self._expected = seqs[end - 1] + 1
                    start = end
                    continue
            for index in range(start, end):
                self._place_one(buffer, seqs[index], payloads[index], intact[index] == 1)
            start = end

    def _place_one(
        self, buffer: PacketBuffer | None, seq: int, payload: memoryview, intact: bool
    ) -> None:
        if not intact or not payload:
            # Another session's packets look like damaged ones of this session.
            self.counts.damaged += 1
        elif seq >= CONTROL_BASE and self._decoder is not None:
            self.control(seq, bytes(payload))
        elif seq >= SEQ_LIMIT and self._decoder is not None:
            self._coded(self._decoder.take(seq, payload))
        elif buffer is None:
            self.counts.repeated += 1
        elif buffer.put(seq, payload):
            self.counts.placed += 1
            self._expected = seq + 1
        else:
            self.counts.repeated += 1

    def _coded(self, mended: tuple[int, bytes] | None) -> None:
        """Place what has come out of a coded packet."""
        if mended is None:
            return
        seq, payload = mended
        buffer = self._buffer_of(seq)
        assert buffer is not None
        # Behind a short payload its slot has what has landed there before.
        size = len(buffer.slots(seq - buffer.ctl.packet_id_base, 1)[0])
        if buffer.put(seq, payload[:size]):
            self.counts.decoded += 1

    # Parity, of which only the server's word tells what it mends.

    def mend(self, buffer: PacketBuffer, run: ParityRun | None) -> Iterator[None]:
        """Place what ``run`` mends in ``buffer``, or what has come lately does for None.

        In slices, between which packets may land; what is given up in between is not gone on with.
        """
        assert self._decoder is not None
        parity = self._decoder.parity
        if run is None:
            mended = yield from parity.solve(buffer, _seqs(buffer))
        else:
            mended = yield from parity.told(buffer, _seqs(buffer), run)
        for each in mended:
            self._coded(each)

    def needed(self, buffer: PacketBuffer) -> list[int]:
        """The fewest packets that bring all which parity has not mended."""
        assert self._decoder is not None
        return self._decoder.parity.needed(_seqs(buffer))

    def came(self, buffer: PacketBuffer, seq: int) -> bool:
        """A packet has come by TCP: whether it is time to :meth:`mend` the rest."""
        return self._decoder is not None and self._decoder.parity.came(_seqs(buffer), seq)

    # What a decoder asks.

    def lacks(self, seq: int) -> bool:
        """Whether this packet is of a buffer here, and has not come."""
        buffer = self._buffer_of(seq)
        return buffer is not None and buffer.lacks(seq)

    def lacking(self, seqs: Sequence[int]) -> list[int]:
        """Those of some packets of one buffer here that have not come."""
        buffer = self._buffer_of(seqs[0])
        return [] if buffer is None else buffer.lacking(seqs)

    def received(self, seq: int) -> memoryview | None:
        """The payload of a packet that has come, None without one."""
        buffer = self._buffer_of(seq)
        return None if buffer is None else buffer.received(seq)

    def _run_end(self, seqs: tuple[int, ...], start: int) -> int:
        """The end of the run of consecutive seqs that begins at ``start``."""
        first = seqs[start]
        end = len(seqs)
        if seqs[-1] - first == end - 1 - start and seqs[start:] == tuple(
            range(first, first + end - start)
        ):
            return end
        end = start + 1
        while end < len(seqs) and seqs[end] == first + end - start:
            end += 1
        return end


def _seqs(buffer: PacketBuffer) -> range:
    first = buffer.ctl.packet_id_base
    return range(first, first + buffer.ctl.pkt_count)
