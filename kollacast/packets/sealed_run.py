"""Packets of a buffer as they cross the network sealed, a batch at a time.

A buffer keeps its payload as it is, for who reads, digests and mends it. What leaves lies here
until the kernel has taken it, in memory that is used again for the next batch.
"""

from __future__ import annotations

from kollacast.packets.buffer import PacketBuffer
from kollacast.wire.messages import BufferCtl
from kollacast.wire.packets import PacketCodec
from kollacast.wire.sealing import SEAL_SIZE, Seal


class SealedRun:
    """Up to ``packets`` packets whose payload has up to ``capacity`` bytes before it is sealed."""

    def __init__(self, seal: Seal, codec: PacketCodec, capacity: int, packets: int) -> None:
        #: Where the sealed packets are, from slot 0 on.
        self.buffer = PacketBuffer(capacity + SEAL_SIZE, packets)
        self._seal = seal
        self._codec = codec
        self._ctl: BufferCtl | None = None
        self._first = self._end = 0

    def hold(self, buffer: PacketBuffer, first: int, count: int) -> tuple[int, int]:
        """Seal up to ``count`` packets of ``buffer`` from its slot ``first`` on.

        Returns the slot here of the first one, and how many there are. Those that are here from the
        last time are not sealed again.
        """
        if buffer.ctl is not self._ctl or not self._first <= first < self._end:
            self._take(buffer, first, min(count, self.buffer.max_packets))
        return first - self._first, min(count, self._end - first)

    def _take(self, buffer: PacketBuffer, first: int, count: int) -> None:
        # Should this fail, nothing is here.
        self._ctl = None
        payloads = buffer.slots(first, count)
        count = len(payloads)
        seq = buffer.ctl.packet_id_base + first
        here = self.buffer
        size = (count - 1) * here.capacity + len(payloads[-1]) + SEAL_SIZE
        here.init(BufferCtl(0, size, seq, count))
        sealed = here.slots(0, count)
        self._seal.seal(seq, payloads, sealed)
        self._codec.seal(here.headers, 0, seq, sealed)
        self._ctl, self._first, self._end = buffer.ctl, first, first + count
