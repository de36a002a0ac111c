"""Packet headers: sealed and read a batch at a time, in either dialect's bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.packets import PacketLayout, header_at
from tests.vectors import HEADERS, IMAGE, PROPERTY

_ENGINE, _ = best_crc32c()


def _pieces(data: bytes, size: int) -> list[memoryview]:
    view = memoryview(data)
    return [view[start : start + size] for start in range(0, len(data), size)]


class Jasmine(unittest.SynchronousTestCase):
    codec = JASMINE.codec(0, _ENGINE)

    def test_the_recorded_packets_byte_for_byte(self) -> None:
        payloads = _pieces(IMAGE, 1460)
        headers = bytearray(36)
        self.codec.seal(headers, 0, 0, payloads)
        self.assertEqual(headers, b"".join(HEADERS))
        for seq, payload in enumerate(payloads):
            self.assertEqual(self.codec.sealed(seq, [payload]), HEADERS[seq])

    def test_the_recorded_packets_are_intact(self) -> None:
        payloads = _pieces(IMAGE, 1460)
        opened = self.codec.open(b"".join(HEADERS), 0, payloads, (1460, 1460, 6))
        self.assertEqual(opened, ((0, 1, 2), b"\x01\x01\x01"))
        crcs = (0xB4BBC20F, 0x32373D8B, 0xF0EAE1D2)
        for seq, payload in enumerate(payloads):
            self.assertTrue(self.codec.intact(seq, crcs[seq], payload))
            self.assertFalse(self.codec.intact(seq, crcs[seq] ^ 1, payload))


class Kollacast(unittest.SynchronousTestCase):
    codec = KOLLACAST.codec(0x01020304, _ENGINE)

    def test_a_header_is_in_network_order_with_a_seeded_crc(self) -> None:
        # The salt XOR the seq is 0 here, so this is the CRC's check value.
        header = self.codec.sealed(0x01020304, [memoryview(b"123456789")])
        self.assertEqual(header, bytes.fromhex("01020304 e3069283 00000009"))

    def test_only_the_right_slot_and_session_are_intact(self) -> None:
        payload = memoryview(IMAGE[:1460])
        crc = int.from_bytes(self.codec.sealed(7, [payload])[4:8], "big")
        self.assertTrue(self.codec.intact(7, crc, payload))
        self.assertFalse(self.codec.intact(6, crc, payload))
        self.assertFalse(self.codec.intact(7, crc, payload[:-1]))
        self.assertFalse(KOLLACAST.codec(0x01020305, _ENGINE).intact(7, crc, payload))

    def test_a_batch_lands_in_its_slots_and_nowhere_else(self) -> None:
        headers = bytearray(b"\xaa" * 60)
        self.codec.seal(headers, 1, 41, _pieces(IMAGE[:200], 100))
        self.assertEqual(headers[:12], b"\xaa" * 12)
        self.assertEqual(headers[36:], b"\xaa" * 24)
        opened = self.codec.open(headers, 1, _pieces(IMAGE[:200], 100), (100, 100))
        self.assertEqual(opened, ((41, 42), b"\x01\x01"))

    def test_no_packets_at_all(self) -> None:
        headers = bytearray()
        self.codec.seal(headers, 0, 0, [])
        self.assertEqual(self.codec.open(headers, 0, [], ()), ((), b""))


class Both(unittest.SynchronousTestCase):
    @PROPERTY
    @given(
        st.sampled_from((KOLLACAST, JASMINE)),
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 0x7FFFFFFF),
        st.lists(st.binary(max_size=40), min_size=1, max_size=70),
    )
    def test_what_is_sealed_is_read_and_intact(
        self, dialect: Dialect, salt: int, seq: int, data: list[bytes]
    ) -> None:
        codec = dialect.codec(salt, _ENGINE)
        payloads = [memoryview(piece) for piece in data]
        headers = bytearray(12 * len(payloads))
        codec.seal(headers, 0, seq, payloads)
        sizes = tuple(map(len, payloads))
        seqs = tuple(range(seq, seq + len(payloads)))
        self.assertTrue(codec.are_sealed(memoryview(headers), 0, seq, payloads))
        self.assertEqual(codec.open(headers, 0, payloads, sizes), (seqs, b"\x01" * len(seqs)))

    def test_what_is_not_intact_is_told_packet_by_packet(self) -> None:
        """A damaged payload, a wrong sum, and a datagram of another length than its header says."""
        for dialect in (KOLLACAST, JASMINE):
            codec = dialect.codec(9, _ENGINE)
            payloads = _pieces(IMAGE[:500], 100)
            headers = bytearray(codec.sealed(3, payloads))
            payloads[1] = memoryview(b"x" * 100)
            headers[12 * 2 + 4] ^= 1
            sizes = (100, 100, 100, 99, 100)
            opened = codec.open(headers, 0, payloads, sizes)
            self.assertEqual(opened, ((3, 4, 5, 6, 7), b"\x01\x00\x00\x00\x01"))


class Layout(unittest.SynchronousTestCase):
    """How long packets are, and where they lie."""

    def test_a_full_datagram_is_header_and_capacity(self) -> None:
        layout = PacketLayout(1460)
        self.assertEqual((layout.header_size, layout.stride), (12, 1472))
        self.assertEqual(layout.payload_sizes([1472, 13, 12, 0]), (1460, 1, 0, -12))
        self.assertEqual(b"".join(HEADERS)[header_at(2)], HEADERS[2])

    @PROPERTY
    @given(st.integers(4, 100), st.integers(1, 60), st.data())
    def test_a_run_is_cut_into_what_it_was_made_of(
        self, capacity: int, packets: int, data: st.DataObject
    ) -> None:
        last = data.draw(st.integers(1, capacity))
        length = (packets - 1) * (12 + capacity) + 12 + last
        self.assertEqual(PacketLayout(capacity).cut(length), (packets, last))
