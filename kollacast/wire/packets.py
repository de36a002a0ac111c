"""The packet: how long it is, and its header, sealed and opened a run at a time.

A run is packets whose 12-byte headers lie one behind the other and whose
payloads are a sequence of views.  No function here copies a payload, and none
runs Python code once a packet where a batch can do.
"""

from __future__ import annotations

import functools
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import and_, eq
from typing import NamedTuple

from kollacast.wire.checksum import Checksum
from kollacast.wire.structures import PACKET_HEADER_SIZE

_NATIVE = "<" if sys.byteorder == "little" else ">"


@dataclass(frozen=True, slots=True)
class PacketLayout:
    """The bytes of packets whose full payload is ``capacity`` bytes long."""

    capacity: int

    @property
    def header_size(self) -> int:
        """Bytes before the payload."""
        return PACKET_HEADER_SIZE

    @property
    def stride(self) -> int:
        """UDP payload bytes of a full packet, and so from one of a run to the next."""
        return PACKET_HEADER_SIZE + self.capacity

    def payload_size(self, length: int) -> int:
        """Payload bytes of a datagram of ``length`` bytes; not above 0 where there is no packet."""
        return length - PACKET_HEADER_SIZE

    def payload_sizes(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """The same of many datagrams."""
        return tuple([length - PACKET_HEADER_SIZE for length in lengths])

    def cut(self, length: int) -> tuple[int, int]:
        """The packets of a run of ``length`` bytes, all but the last full, and its payload."""
        count = -(-length // self.stride)
        return count, self.payload_size(length - (count - 1) * self.stride)


def header_at(slot: int) -> slice:
    """Where the header of number ``slot`` stands among headers."""
    return slice(PACKET_HEADER_SIZE * slot, PACKET_HEADER_SIZE * (slot + 1))


class Opened(NamedTuple):
    """A run of packets as it has come: the seqs they have, and which are intact, 1 or 0 each."""

    seqs: tuple[int, ...]
    intact: bytes


@functools.cache
def _run_struct(byte_order: str, count: int) -> struct.Struct:
    return struct.Struct(f"{byte_order}{3 * count}I")


@dataclass(frozen=True)
class PacketCodec:
    """One session's ``packet_ctl``: byte order (a struct prefix) and checksum."""

    byte_order: str
    checksum: Checksum

    def seal(
        self, headers: bytearray | memoryview, slot: int, seq: int, payloads: Sequence[memoryview]
    ) -> None:
        """Write the headers of ``payloads`` from header number ``slot`` on.

        The packets' seqs count up from ``seq``.
        """
        sealed = self.sealed(seq, payloads)
        start = PACKET_HEADER_SIZE * slot
        headers[start : start + len(sealed)] = sealed

    def are_sealed(
        self, headers: memoryview, slot: int, seq: int, payloads: Sequence[memoryview]
    ) -> bool:
        """Whether the headers from number ``slot`` on are what :meth:`seal` would write there."""
        sealed = self.sealed(seq, payloads)
        start = PACKET_HEADER_SIZE * slot
        return headers[start : start + len(sealed)].tobytes() == sealed

    def seq(self, headers: memoryview, slot: int) -> int:
        """The seq in header number ``slot``."""
        seq: int = _run_struct(self.byte_order, 1).unpack_from(headers, PACKET_HEADER_SIZE * slot)[
            0
        ]
        return seq

    def sealed(self, seq: int, payloads: Sequence[memoryview]) -> bytes:
        """The headers of ``payloads``, whose seqs count up from ``seq``."""
        seqs = tuple(range(seq, seq + len(payloads)))
        fields = array("I", bytes(PACKET_HEADER_SIZE * len(payloads)))
        fields[0::3] = array("I", seqs)
        fields[1::3] = array("I", self.checksum.batch(seqs, payloads))
        fields[2::3] = array("I", tuple(map(len, payloads)))
        if self.byte_order != _NATIVE:
            fields.byteswap()
        return fields.tobytes()

    def fit(
        self, headers: bytes | bytearray | memoryview, slot: int, sizes: tuple[int, ...]
    ) -> bool:
        """Whether any header from number ``slot`` on says the size that its datagram has."""
        fields = _run_struct(self.byte_order, len(sizes))
        said = fields.unpack_from(headers, PACKET_HEADER_SIZE * slot)[2::3]
        return said == sizes or any(map(eq, said, sizes))

    def open(
        self,
        headers: bytes | bytearray | memoryview,
        slot: int,
        payloads: Sequence[memoryview],
        sizes: tuple[int, ...],
    ) -> Opened:
        """Check the packets whose headers are those from number ``slot`` on.

        ``sizes`` are the payload bytes that their datagrams had.
        """
        count = len(payloads)
        fields = _run_struct(self.byte_order, count).unpack_from(headers, PACKET_HEADER_SIZE * slot)
        seqs, crcs = fields[0::3], fields[1::3]
        actual = self.checksum.batch(seqs, payloads)
        if crcs == actual and fields[2::3] == sizes:
            return Opened(seqs, b"\x01" * count)
        intact = map(and_, map(eq, crcs, actual), map(eq, fields[2::3], sizes))
        return Opened(seqs, bytes(intact))

    def intact(self, seq: int, crc: int, payload: memoryview) -> bool:
        """Whether one packet's payload is what its header says."""
        return self.checksum.batch((seq,), (payload,)) == (crc,)

    def header(self, seq: int, payload: memoryview) -> bytes:
        """The header of one packet."""
        return self.sealed(seq, (payload,))
