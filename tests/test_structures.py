"""The fixed structures: sizes, limits, and how much of a packet is payload."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.wire import structures
from kollacast.wire.dialect import JASMINE
from kollacast.wire.messages import BufferCtl
from kollacast.wire.structures import SEQ_LIMIT, Tag, WireError, payload_capacity
from tests.vectors import PROPERTY


class Sizes(unittest.SynchronousTestCase):
    def test_every_structure_is_aligned_to_four_bytes(self) -> None:
        self.assertEqual(structures.PACKET_HEADER_SIZE, 12)
        self.assertEqual(len(BufferCtl(1, 2, 3, 4).encode(JASMINE)), 16)
        self.assertEqual(structures.GROUP_INFO_SIZE, 16)

    def test_each_tag_has_its_byte(self) -> None:
        self.assertEqual(
            {tag.name: tag.value for tag in Tag},
            {
                "CLIENT_READY": 0x01,
                "CLIENT_REQ": 0x02,
                "CREDIT": 0x03,
                "CLIENT_DONE": 0x04,
                "ASK": 0x05,
                "WANT": 0x06,
                "SERVER_SENT": 0x08,
                "BUFFER": 0x10,
                "REPAIRED": 0x11,
                "FETCH": 0x12,
                "DETACH": 0x14,
                "CONTROL": 0x16,
                "PIECES": 0x17,
                "PACKET": 0x20,
                "DIGEST": 0x40,
                "REPORT": 0x80,
            },
        )


class Capacity(unittest.SynchronousTestCase):
    def test_the_usual_links(self) -> None:
        for mtu, capacity in (
            (1500, 1460),
            (9000, 8960),
            (65535, 65492),
            (576, 536),
            (68, 28),
            (1501, 1460),
            (1503, 1460),
            (1504, 1464),
            (47, 4),
            (44, 4),
        ):
            self.assertEqual(payload_capacity(mtu), capacity, f"mtu {mtu}")

    def test_an_mtu_too_small_for_one_packet_has_none(self) -> None:
        for mtu in (43, 40, 28, 0):
            self.assertLessEqual(payload_capacity(mtu), 0, f"mtu {mtu}")

    @PROPERTY
    @given(st.integers(44, 65535))
    def test_a_full_datagram_fits_and_no_larger_one_would(self, mtu: int) -> None:
        capacity = payload_capacity(mtu)
        datagram = 20 + 8 + 12 + capacity
        self.assertLessEqual(datagram, mtu)
        self.assertGreater(datagram + 4, mtu)
        self.assertEqual(capacity % 4, 0)


class Announcements(unittest.SynchronousTestCase):
    """What a client accepts as a buffer of packets of 100 bytes, at most 8 of them."""

    def check(self, size: int, base: int, count: int) -> None:
        BufferCtl(1, size, base, count).check(100, 8)

    def refused(self, size: int, base: int, count: int, pattern: str) -> None:
        with self.assertRaisesRegex(WireError, pattern) as caught:
            self.check(size, base, count)
        self.assertTrue(str(caught.exception).isprintable())

    def test_every_shape_that_can_exist_is_accepted(self) -> None:
        for size, count in ((1, 1), (100, 1), (101, 2), (800, 8), (8, 8), (0, 0)):
            self.check(size, 0, count)
        self.check(800, SEQ_LIMIT - 8, 8)
        self.check(0, SEQ_LIMIT, 0)

    def test_only_a_buffer_without_packets_is_the_end(self) -> None:
        self.assertTrue(BufferCtl(9, 0, 7, 0).is_end)
        self.assertFalse(BufferCtl(9, 1, 7, 1).is_end)

    def test_more_packets_than_the_greeting_said(self) -> None:
        self.refused(900, 0, 9, "9 packets is announced, 8 is the limit")
        self.refused(0xFFFFFFFF, 0, 0xFFFFFFFF, "limit")

    def test_reserved_seqs(self) -> None:
        self.refused(800, SEQ_LIMIT - 7, 8, "reserved")
        self.refused(100, 0xFFFFFFFF, 1, "reserved")

    def test_numbers_that_no_buffer_has(self) -> None:
        """Buffers are counted from 1 on, and each has a packet at the least."""
        for number in (1, SEQ_LIMIT, SEQ_LIMIT + 1):
            BufferCtl(number, 100, 0, 1).check(100, 8)
        for number in (0, SEQ_LIMIT + 2, 0xFFFFFFFF):
            with self.assertRaisesRegex(WireError, f"a buffer has the number {number}$"):
                BufferCtl(number, 100, 0, 1).check(100, 8)

    def test_sizes_that_the_packets_cannot_hold(self) -> None:
        self.refused(801, 0, 8, "cannot hold")
        self.refused(0xFFFFFFFF, 0, 8, "cannot hold")
        self.refused(7, 0, 8, "cannot hold")
        self.refused(0, 0, 1, "cannot hold")
        self.refused(1, 0, 0, "cannot hold")
