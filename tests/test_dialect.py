"""Messages as bytes, in both dialects: the recorded session and messages made by hand."""

from __future__ import annotations

import struct

from twisted.trial import unittest

from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import DIALECTS, JASMINE, KOLLACAST
from kollacast.wire.greeting import GroupInfo
from kollacast.wire.messages import (
    Ask,
    BufferCtl,
    Control,
    Credit,
    Done,
    Packet,
    Ready,
    Repaired,
    Request,
    Sent,
    encode_sealed,
)
from kollacast.wire.structures import Tag, payload_capacity
from tests.vectors import (
    BUFFER,
    DONE,
    END,
    GROUP_INFO,
    HEADERS,
    IMAGE,
    LAST_PACKET,
    READY,
    REQUEST,
    SENT,
)

_ENGINE, _ = best_crc32c()


class Jasmine(unittest.SynchronousTestCase):
    """Byte for byte what the C programs say."""

    def test_group_info(self) -> None:
        self.assertEqual(GroupInfo("224.238.0.31", 18383).encode(), GROUP_INFO)

    def test_buffers(self) -> None:
        self.assertEqual(BufferCtl(1, 2926, 0, 3).encode(JASMINE), BUFFER)
        self.assertEqual(BufferCtl(2, 0, 3, 0).encode(JASMINE), END)

    def test_a_request(self) -> None:
        self.assertEqual(Request((2,)).encode(JASMINE), REQUEST)

    def test_signals_are_single_bytes(self) -> None:
        self.assertEqual(Ready().encode(JASMINE), READY)
        self.assertEqual(Done().encode(JASMINE), DONE)
        self.assertEqual(Sent().encode(JASMINE), SENT)
        # Which buffer it is, is not said.
        self.assertEqual(Sent(7, 8).encode(JASMINE), SENT)

    def test_it_has_four_tags(self) -> None:
        self.assertEqual([tag.value for tag in sorted(JASMINE.tags)], [0x01, 0x02, 0x04, 0x08])
        self.assertFalse(JASMINE.multicasts_control)

    def test_retransmissions_in_the_order_asked_for(self) -> None:
        headers = memoryview(b"".join(HEADERS))
        last, first = memoryview(IMAGE)[2920:], memoryview(IMAGE)[:1460]
        self.assertEqual(encode_sealed(JASMINE, headers, [2], [last]), LAST_PACKET)
        self.assertEqual(
            encode_sealed(JASMINE, headers, [2, 0], [last, first]),
            LAST_PACKET + HEADERS[0] + IMAGE[:1460],
        )

    def test_a_packet_that_is_not_held(self) -> None:
        self.assertEqual(
            Packet(9, 0, b"").encode(JASMINE), bytes.fromhex("09000000 00000000 00000000")
        )

    def test_its_limits_are_those_of_the_c_client(self) -> None:
        self.assertEqual(JASMINE.max_announced, 1024)
        self.assertEqual(JASMINE.max_buffer_packets, 65536)
        self.assertEqual(JASMINE.ready_wait_s, 5.0)
        self.assertEqual(JASMINE.max_window, 1)
        self.assertEqual(JASMINE.announced_ahead, 0)
        self.assertEqual(12 + payload_capacity(JASMINE.max_mtu), 1472)
        self.assertEqual(JASMINE.default_group, "224.238.0.31")
        self.assertTrue(JASMINE.descending)
        self.assertTrue(JASMINE.answers_all)
        self.assertFalse(JASMINE.proves)


class Kollacast(unittest.SynchronousTestCase):
    """The same structures behind a tag, in network order."""

    def test_buffers(self) -> None:
        self.assertEqual(
            BufferCtl(1, 2926, 0, 3).encode(KOLLACAST),
            bytes.fromhex("10 00000001 00000b6e 00000000 00000003"),
        )
        self.assertEqual(
            BufferCtl(2, 0, 3, 0).encode(KOLLACAST),
            bytes.fromhex("10 00000002 00000000 00000003 00000000"),
        )

    def test_requests(self) -> None:
        self.assertEqual(
            Request((2, 0x7FFFFFFF)).encode(KOLLACAST),
            bytes.fromhex("02 00000002 00000002 7fffffff"),
        )
        self.assertEqual(Request(()).encode(KOLLACAST), bytes.fromhex("02 00000000"))

    def test_every_retransmission_has_its_tag(self) -> None:
        # Salt 1 and seq 1 start from 0: the plain CRC, whose check value is well known.
        codec = KOLLACAST.codec(1, _ENGINE)
        payload = memoryview(b"123456789")
        headers = bytearray(24)
        codec.seal(headers, 0, 0, [payload, payload])
        second = bytes.fromhex("20 00000001 e3069283 00000009") + payload
        self.assertEqual(encode_sealed(KOLLACAST, memoryview(headers), [1], [payload]), second)
        self.assertEqual(
            encode_sealed(KOLLACAST, memoryview(headers), [1, 0], [payload, payload]),
            second + b"\x20" + headers[:12] + payload,
        )

    def test_a_packet_that_is_not_held(self) -> None:
        self.assertEqual(
            Packet(9, 0, b"").encode(KOLLACAST), bytes.fromhex("20 00000009 00000000 00000000")
        )

    def test_a_buffer_is_sent(self) -> None:
        self.assertEqual(
            Sent(0x01020304, 3).encode(KOLLACAST), bytes.fromhex("08 01020304 00000003")
        )

    def test_credit_and_questions(self) -> None:
        self.assertEqual(
            Credit(1, 5).encode(KOLLACAST), bytes.fromhex("03 00000001 00000005 00000000 00000000")
        )
        self.assertEqual(Ask(0x01020304).encode(KOLLACAST), bytes.fromhex("05 01020304"))

    def test_what_a_control_packet_carries(self) -> None:
        repaired = Repaired(1, 0xA0000005, 3, 2)
        control = Control(2, 3, (BufferCtl(1, 2926, 0, 3), Sent(1, 3), repaired))
        data = bytes.fromhex(
            "00000002 00000003 10 00000001 00000b6e 00000000 00000003"
            " 08 00000001 00000003 11 00000001 a0000005 00000003 00000002"
        )
        self.assertEqual(control.data(KOLLACAST), data)
        self.assertEqual(control.encode(KOLLACAST), bytes.fromhex("16 00000033") + data)

    def test_credit_stands_in_place_of_the_old_signals(self) -> None:
        self.assertTrue(KOLLACAST.multicasts_control)
        self.assertEqual(set(Tag) - KOLLACAST.tags, {Tag.CLIENT_READY, Tag.CLIENT_DONE})

    def test_coded_repairs_are_over(self) -> None:
        self.assertEqual(
            Repaired(0x01020304, 0xA0000001, 0x76, 0x05).encode(KOLLACAST),
            bytes.fromhex("11 01020304 a0000001 00000076 00000005"),
        )

    def test_the_default_group_is_administratively_scoped(self) -> None:
        self.assertTrue(KOLLACAST.default_group.startswith("239."))


class Both(unittest.SynchronousTestCase):
    def test_dialects_go_by_their_names(self) -> None:
        self.assertEqual(DIALECTS, {"kollacast": KOLLACAST, "jasmine": JASMINE})

    def test_payloads_and_slots_must_match(self) -> None:
        for dialect in DIALECTS.values():
            with self.assertRaises(ValueError):
                encode_sealed(dialect, memoryview(bytes(24)), [0, 1], [memoryview(b"x")])

    def test_what_does_not_fit_a_field_is_no_message(self) -> None:
        for dialect in DIALECTS.values():
            with self.assertRaises(struct.error):
                Request((1 << 32,)).encode(dialect)
