"""Packet headers, packed and checked a batch at a time.

A batch is a run of packets whose 12-byte headers lie one behind the other
and whose payloads are a sequence of views.  No function here copies a
payload, and none runs Python code once a packet where a batch can do.
"""

from __future__ import annotations

import functools
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kollacast.wire.checksum import Checksum
from kollacast.wire.structures import PACKET_HEADER_SIZE

_NATIVE = "<" if sys.byteorder == "little" else ">"


class Headers(NamedTuple):
    """The fields of a run of headers, column by column."""

    seqs: tuple[int, ...]
    crcs: tuple[int, ...]
    sizes: tuple[int, ...]


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
        sealed = self._sealed(seq, payloads)
        start = PACKET_HEADER_SIZE * slot
        headers[start : start + len(sealed)] = sealed

    def are_sealed(
        self, headers: memoryview, slot: int, seq: int, payloads: Sequence[memoryview]
    ) -> bool:
        """Whether the headers from number ``slot`` on are what :meth:`seal` would write there."""
        sealed = self._sealed(seq, payloads)
        start = PACKET_HEADER_SIZE * slot
        return headers[start : start + len(sealed)].tobytes() == sealed

    def seq(self, headers: memoryview, slot: int) -> int:
        """The seq in header number ``slot``."""
        seq: int = _run_struct(self.byte_order, 1).unpack_from(headers, PACKET_HEADER_SIZE * slot)[
            0
        ]
        return seq

    def _sealed(self, seq: int, payloads: Sequence[memoryview]) -> bytes:
        seqs = tuple(range(seq, seq + len(payloads)))
        fields = array("I", bytes(PACKET_HEADER_SIZE * len(payloads)))
        fields[0::3] = array("I", seqs)
        fields[1::3] = array("I", self.checksum.batch(seqs, payloads))
        fields[2::3] = array("I", tuple(map(len, payloads)))
        if self.byte_order != _NATIVE:
            fields.byteswap()
        return fields.tobytes()

    def read(self, headers: bytes | bytearray | memoryview, slot: int, count: int) -> Headers:
        """The fields of ``count`` headers from header number ``slot`` on."""
        fields = _run_struct(self.byte_order, count).unpack_from(headers, PACKET_HEADER_SIZE * slot)
        return Headers(fields[0::3], fields[1::3], fields[2::3])

    def intact(self, seq: int, crc: int, payload: memoryview) -> bool:
        """Whether one packet's payload is what its header says."""
        return self.checksum.batch((seq,), (payload,)) == (crc,)

    def header(self, seq: int, payload: memoryview) -> bytes:
        """The header of one packet."""
        header = bytearray(PACKET_HEADER_SIZE)
        self.seal(header, 0, seq, (payload,))
        return bytes(header)
