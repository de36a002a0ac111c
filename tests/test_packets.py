"""Packet headers: sealed and read a batch at a time, in either dialect's bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
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
            self.assertEqual(self.codec.header(seq, payload), HEADERS[seq])

    def test_the_recorded_packets_are_intact(self) -> None:
        seqs, crcs, sizes = self.codec.read(b"".join(HEADERS), 0, 3)
        self.assertEqual(seqs, (0, 1, 2))
        self.assertEqual(crcs, (0xB4BBC20F, 0x32373D8B, 0xF0EAE1D2))
        self.assertEqual(sizes, (1460, 1460, 6))
        for seq, payload in enumerate(_pieces(IMAGE, 1460)):
            self.assertTrue(self.codec.intact(seq, crcs[seq], payload))
            self.assertFalse(self.codec.intact(seq, crcs[seq] ^ 1, payload))


class Kollacast(unittest.SynchronousTestCase):
    codec = KOLLACAST.codec(0x01020304, _ENGINE)

    def test_a_header_is_in_network_order_with_a_seeded_crc(self) -> None:
        # The salt XOR the seq is 0 here, so this is the CRC's check value.
        header = self.codec.header(0x01020304, memoryview(b"123456789"))
        self.assertEqual(header, bytes.fromhex("01020304 e3069283 00000009"))

    def test_only_the_right_slot_and_session_are_intact(self) -> None:
        payload = memoryview(IMAGE[:1460])
        _, (crc,), _ = self.codec.read(self.codec.header(7, payload), 0, 1)
        self.assertTrue(self.codec.intact(7, crc, payload))
        self.assertFalse(self.codec.intact(6, crc, payload))
        self.assertFalse(self.codec.intact(7, crc, payload[:-1]))
        self.assertFalse(KOLLACAST.codec(0x01020305, _ENGINE).intact(7, crc, payload))

    def test_a_batch_lands_in_its_slots_and_nowhere_else(self) -> None:
        headers = bytearray(b"\xaa" * 60)
        self.codec.seal(headers, 1, 41, _pieces(IMAGE[:200], 100))
        self.assertEqual(headers[:12], b"\xaa" * 12)
        self.assertEqual(headers[36:], b"\xaa" * 24)
        self.assertEqual(self.codec.read(headers, 1, 2).seqs, (41, 42))

    def test_no_packets_at_all(self) -> None:
        headers = bytearray()
        self.codec.seal(headers, 0, 0, [])
        self.assertEqual(self.codec.read(headers, 0, 0), ((), (), ()))


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
        read = codec.read(headers, 0, len(payloads))
        self.assertEqual(read.seqs, tuple(range(seq, seq + len(payloads))))
        self.assertEqual(read.sizes, tuple(map(len, payloads)))
        for number, crc, payload in zip(read.seqs, read.crcs, payloads, strict=True):
            self.assertTrue(codec.intact(number, crc, payload))
