"""The packets of one buffer, in memory that the kernel reads and fills in place.

Headers lie together and payloads lie together, both in the order of their
seqs.  A vector of alternating header and payload views (:meth:`PacketBuffer.vector`)
is a run of datagrams as it crosses the network, so that one system call sends
or receives many packets without a copy, while the payload stays one piece for
reading, digesting and writing.

A buffer is allocated once and used again and again: :meth:`PacketBuffer.init`
begins its next life.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from itertools import compress

from kollacast.wire.messages import BufferCtl
from kollacast.wire.packets import PacketLayout, header_at

#: Swaps 0 and 1.
_INVERT = bytes((1, 0)) + bytes(254)


def _memory(size: int) -> memoryview:
    """Zeros, of which only those cost memory and time that are touched: a bytearray's all are.

    Not shared with a child, which mmap's own default would be, and which takes the kernel twice
    the time, at the first touch and at the end.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return memoryview(mmap.mmap(-1, max(size, 1), flags=flags))[:size]


class InconsistentBuffer(ValueError):
    """The packets of a buffer are not what its announcement said."""


class PacketBuffer:
    """``max_packets`` slots of ``capacity`` payload bytes each.

    A sender calls :meth:`fill`; a receiver :meth:`init`, then :meth:`put` or
    :meth:`mark` until :attr:`complete`, then :meth:`flush`.
    """

    def __init__(self, capacity: int, max_packets: int) -> None:
        self.capacity = capacity
        self.max_packets = max_packets
        self.layout = PacketLayout(capacity)
        self.headers = _memory(self.layout.header_size * max_packets)
        self.payload = _memory(capacity * max_packets)
        #: The payload of each slot, as far as slots have been used: a view costs
        #: as much as 100 bytes of payload.
        self.payloads: list[memoryview] = []
        self.init(BufferCtl(0, 0, 0, 0))

    def init(self, ctl: BufferCtl) -> None:
        """Begin anew as the buffer of ``ctl``, with no packet received."""
        self.ctl = ctl
        if ctl.pkt_count > len(self.payloads):
            self._use(ctl.pkt_count)
        self._have = bytearray(ctl.pkt_count)
        self._missing = ctl.pkt_count
        self._sizes = [0] * ctl.pkt_count

    def _use(self, count: int) -> None:
        """Make the views of the first ``count`` slots."""
        capacity = self.capacity
        known = len(self.payloads)
        self.payloads += [
            self.payload[capacity * slot : capacity * (slot + 1)] for slot in range(known, count)
        ]

    def vector(self, first: int, count: int) -> list[memoryview]:
        """Header and payload of slots ``first`` on in turn, each payload at its full size."""
        views = [self.headers] * (2 * count)
        views[0::2] = [self.headers[header_at(slot)] for slot in range(first, first + count)]
        views[1::2] = self.payloads[first : first + count]
        return views

    # Sending.

    def fill(self, readinto: Callable[[memoryview], int], max_packets: int) -> int:
        """Read payload until ``max_packets`` are full or the input ends.

        ``readinto(view)`` fills a part of ``view`` and returns its length, 0
        at the end.  Returns the bytes read; :meth:`announce` then names them.
        """
        limit = max_packets * self.capacity
        filled = 0
        while filled < limit:
            count = readinto(self.payload[filled:limit])
            if count == 0:
                break
            filled += count
        return filled

    def announce(self, buffer_id: int, packet_id_base: int, size: int) -> BufferCtl:
        """Begin the life of a filled buffer that holds ``size`` bytes."""
        self.init(BufferCtl(buffer_id, size, packet_id_base, -(-size // self.capacity)))
        return self.ctl

    def slots(self, first: int, count: int) -> list[memoryview]:
        """The payloads of slots ``first`` on, the last of the buffer as long as it is."""
        payloads = self.payloads[first : first + count]
        end = self.ctl.pkt_count
        if first + len(payloads) >= end:
            payloads = payloads[: end - first]
            if payloads:
                payloads[-1] = self.payload[(end - 1) * self.capacity : self.ctl.buffer_size]
        return payloads

    def full(self) -> memoryview:
        """All of it as full packets: behind the last one's payload there are zeros, then."""
        size, end = self.ctl.buffer_size, self.ctl.pkt_count * self.capacity
        self.payload[size:end] = bytes(end - size)
        return self.payload[:end]

    def slot_of(self, seq: int) -> int | None:
        """The slot of the packet ``seq``, or None when it is another buffer's."""
        slot = seq - self.ctl.packet_id_base
        return slot if 0 <= slot < self.ctl.pkt_count else None

    def get(self, seq: int) -> memoryview | None:
        """The payload of the packet ``seq``, or None when it is another buffer's."""
        slot = self.slot_of(seq)
        return None if slot is None else self.slots(slot, 1)[0]

    # Receiving.

    @property
    def missing_count(self) -> int:
        """How many packets have not been put yet."""
        return self._missing

    @property
    def complete(self) -> bool:
        """Whether every packet has been put."""
        return self._missing == 0

    def missing(self) -> list[int]:
        """The seqs that have not been put yet, ascending."""
        base = self.ctl.packet_id_base
        absent = self._have.translate(_INVERT)
        return list(compress(range(base, base + self.ctl.pkt_count), absent))

    def vacant_run(self, slot: int, limit: int) -> int:
        """How many slots from ``slot`` on, ``limit`` at the most, are all missing."""
        end = min(slot + limit, self.ctl.pkt_count)
        taken = self._have.find(1, slot, end)
        return max((end if taken < 0 else taken) - slot, 0)

    def mark(self, slot: int, sizes: Sequence[int]) -> int:
        """Packets of these ``sizes`` now lie, verified, in ``slot`` and after.

        Returns how many of them are new.
        """
        end = slot + len(sizes)
        new = len(sizes) - self._have.count(1, slot, end)
        self._have[slot:end] = b"\x01" * len(sizes)
        self._sizes[slot:end] = sizes
        self._missing -= new
        return new

    def received(self, seq: int) -> memoryview | None:
        """The payload that was put as packet ``seq``, as long as it came; None without one."""
        slot = self.slot_of(seq)
        if slot is None or not self._have[slot]:
            return None
        return self.payloads[slot][: self._sizes[slot]]

    def lacks(self, seq: int) -> bool:
        """Whether the packet ``seq`` of this buffer is still missing."""
        return not self._have[seq - self.ctl.packet_id_base]

    def lacking(self, seqs: Sequence[int]) -> list[int]:
        """Those of ``seqs`` that are still missing; none where one is another buffer's."""
        base, have = self.ctl.packet_id_base, self._have
        if min(seqs) < base or max(seqs) >= base + len(have):
            return []
        return [seq for seq in seqs if not have[seq - base]]

    def put(self, seq: int, payload: bytes | memoryview) -> bool:
        """Copy a verified packet to its slot; False when it was there already.

        ``seq`` must be of this buffer and ``payload`` of 1 to ``capacity`` bytes.
        """
        slot = seq - self.ctl.packet_id_base
        if self._have[slot]:
            return False
        self.payloads[slot][: len(payload)] = payload
        self.mark(slot, (len(payload),))
        return True

    def misfits(self) -> list[int]:
        """The slots whose packets are not as long as the announcement has them.

        That is full but for the last one.
        """
        count, capacity, sizes = self.ctl.pkt_count, self.capacity, self._sizes
        last = self.ctl.buffer_size - (count - 1) * capacity
        if sizes[-1:] == [last] and sizes.count(capacity) == count - (last != capacity):
            return []
        due = [*[capacity] * (count - 1), last]
        return [slot for slot, size in enumerate(sizes) if size != due[slot]]

    def lose(self, first: int, last: int) -> None:
        """The packets from slot ``first`` to ``last`` are missing again."""
        end = last + 1
        self._missing += self._have.count(1, first, end)
        self._have[first:end] = bytes(end - first)

    def views(self) -> list[memoryview]:
        """The payload of a complete buffer, in order, in as few views as possible.

        Raises :class:`InconsistentBuffer` when its packets do not add up to
        the announced size.
        """
        sizes = self._sizes
        if sum(sizes) != self.ctl.buffer_size:
            raise InconsistentBuffer(
                f"buffer {self.ctl.buffer_id} was announced with {self.ctl.buffer_size} bytes"
                f" and came with {sum(sizes)}"
            )
        if sizes.count(self.capacity) >= len(sizes) - (sizes[-1:] != [self.capacity]):
            return [self.payload[: self.ctl.buffer_size]] if sizes else []
        return [payload[:size] for payload, size in zip(self.payloads, sizes, strict=False) if size]

    def flush(self, write: Callable[[Sequence[memoryview]], None]) -> None:
        """Write the payload of a complete buffer with ``write(views)``."""
        write(self.views())
