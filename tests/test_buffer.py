"""The packets of one buffer: filled, announced, received in any order, flushed."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.packets.buffer import InconsistentBuffer, PacketBuffer
from kollacast.wire.messages import BufferCtl
from tests.vectors import PROPERTY

_CAPACITY = 8
_PACKETS = 5


def _reader(data: bytes, lengths: Sequence[int] = ()) -> Callable[[memoryview], int]:
    """A ``readinto`` whose first calls read no more than ``lengths``, as a pipe does."""
    stream = io.BytesIO(data)
    limits = iter(lengths)

    def readinto(view: memoryview) -> int:
        return stream.readinto(view[: next(limits, len(view))])

    return readinto


def _flushed(buffer: PacketBuffer) -> bytes:
    written: list[bytes] = []
    buffer.flush(lambda views: written.extend(bytes(view) for view in views))
    return b"".join(written)


def _received(
    payloads: Sequence[bytes], base: int = 0, order: Sequence[int] | None = None
) -> PacketBuffer:
    """A buffer of these packets, put in ``order``."""
    buffer = PacketBuffer(_CAPACITY, _PACKETS)
    buffer.init(BufferCtl(1, sum(map(len, payloads)), base, len(payloads)))
    for slot in range(len(payloads)) if order is None else order:
        buffer.put(base + slot, payloads[slot])
    return buffer


class Filling(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.buffer = PacketBuffer(_CAPACITY, _PACKETS)

    def fill(self, data: bytes, lengths: Sequence[int] = (), packets: int = _PACKETS) -> BufferCtl:
        size = self.buffer.fill(_reader(data, lengths), packets)
        return self.buffer.announce(7, 100, size)

    def packets(self) -> list[bytes]:
        """Every packet of the filled buffer, by its seq."""
        found = []
        for seq in range(100, 100 + self.buffer.ctl.pkt_count):
            payload = self.buffer.get(seq)
            assert payload is not None
            found.append(bytes(payload))
        return found

    def test_every_size_of_input(self) -> None:
        image = bytes(range(1, 60))
        for size in (0, 1, 7, 8, 9, 15, 16, 17, 39, 40, 41, 59):
            ctl = self.fill(image[:size])
            taken = min(size, 40)
            self.assertEqual(ctl, BufferCtl(7, taken, 100, -(-taken // 8)), f"{size} bytes")
            self.assertEqual(
                self.packets(), [image[i : min(i + 8, taken)] for i in range(0, taken, 8)]
            )

    def test_an_empty_input_is_the_end(self) -> None:
        self.assertTrue(self.fill(b"").is_end)
        self.assertEqual(self.packets(), [])

    def test_short_reads_leave_no_gaps(self) -> None:
        image = bytes(range(1, 60))
        self.fill(image, (1, 1, 7, 3, 12))
        self.assertEqual(b"".join(self.packets()), image[:40])
        self.assertEqual([len(packet) for packet in self.packets()], [8] * 5)

    def test_what_is_beyond_the_buffer_is_left_for_the_next(self) -> None:
        image = bytes(range(1, 60))
        readinto = _reader(image)
        self.assertEqual(self.buffer.fill(readinto, _PACKETS), 40)
        self.assertEqual(self.buffer.fill(readinto, _PACKETS), 19)
        self.assertEqual(self.buffer.fill(readinto, _PACKETS), 0)

    def test_fewer_packets_than_there_is_room_for(self) -> None:
        ctl = self.fill(bytes(range(1, 60)), packets=2)
        self.assertEqual((ctl.pkt_count, ctl.buffer_size), (2, 16))

    def test_a_failing_read_is_the_caller_s(self) -> None:
        def broken(view: memoryview) -> int:
            raise OSError(5, "Input/output error")

        with self.assertRaises(OSError):
            self.buffer.fill(broken, _PACKETS)

    def test_other_buffers_packets_are_not_held(self) -> None:
        self.fill(bytes(20))
        for seq in (0, 99, 103, 104, 0xFFFFFFFF):
            self.assertIsNone(self.buffer.get(seq))
            self.assertIsNone(self.buffer.slot_of(seq))
        self.assertEqual([self.buffer.slot_of(seq) for seq in (100, 101, 102)], [0, 1, 2])

    def test_a_buffer_is_filled_again(self) -> None:
        self.fill(bytes(range(1, 41)))
        ctl = self.fill(b"again")
        self.assertEqual((ctl.pkt_count, self.packets()), (1, [b"again"]))

    @PROPERTY
    @given(st.binary(max_size=50), st.lists(st.integers(1, 9), max_size=50))
    def test_any_reads_give_the_same_packets(self, image: bytes, lengths: list[int]) -> None:
        self.fill(image, lengths)
        self.assertEqual(b"".join(self.packets()), image[:40])
        self.assertTrue(all(len(packet) == 8 for packet in self.packets()[:-1]))

    def test_the_vector_is_headers_and_payloads_in_turn(self) -> None:
        """What one system call sends or receives is a run of datagrams."""
        self.fill(bytes(range(1, 41)))
        self.buffer.headers[:] = b"h" * 60
        vector = self.buffer.vector(1, 3)
        self.assertEqual(len(vector), 6)
        self.assertEqual(
            b"".join(vector), b"".join(b"h" * 12 + packet for packet in self.packets()[1:4])
        )


class Receiving(unittest.SynchronousTestCase):
    def test_missing_packets_by_seq(self) -> None:
        buffer = _received([bytes(8)] * 5, 100, order=(3, 0))
        self.assertEqual(buffer.missing(), [101, 102, 104])
        self.assertEqual(buffer.missing_count, 3)
        self.assertFalse(buffer.complete)
        for seq in (101, 102, 104):
            self.assertTrue(buffer.put(seq, bytes(8)))
        self.assertEqual(buffer.missing(), [])
        self.assertEqual(buffer.missing_count, 0)
        self.assertTrue(buffer.complete)

    def test_the_first_copy_of_a_packet_stays(self) -> None:
        buffer = _received([b"original", b"x"], order=(0,))
        self.assertFalse(buffer.put(0, b"imposter"))
        self.assertEqual(buffer.missing_count, 1)
        buffer.put(1, b"x")
        self.assertEqual(_flushed(buffer), b"originalx")

    def test_the_end_of_the_stream_is_complete_at_once(self) -> None:
        buffer = _received([])
        self.assertTrue(buffer.complete)
        self.assertEqual(buffer.missing(), [])
        self.assertEqual(_flushed(buffer), b"")

    def test_a_new_life_remembers_nothing(self) -> None:
        buffer = _received([b"original", b"packets!"])
        buffer.init(BufferCtl(2, 3, 2, 1))
        self.assertEqual(buffer.missing(), [2])
        self.assertIsNone(buffer.slot_of(1))
        buffer.put(2, b"new")
        self.assertEqual(_flushed(buffer), b"new")

    def test_vacant_runs(self) -> None:
        buffer = _received([bytes(8)] * 5, order=(2,))
        for slot, limit, run in ((0, 64, 2), (0, 1, 1), (1, 64, 1), (2, 64, 0), (3, 64, 2)):
            self.assertEqual(buffer.vacant_run(slot, limit), run, (slot, limit))
        self.assertEqual(buffer.vacant_run(5, 64), 0)
        self.assertEqual(buffer.vacant_run(3, 1), 1)

    def test_marks_count_what_is_new(self) -> None:
        buffer = _received([bytes(8)] * 5, order=(2,))
        self.assertEqual(buffer.mark(1, (8, 8, 8)), 2)
        self.assertEqual(buffer.missing(), [0, 4])


class Flushing(unittest.SynchronousTestCase):
    def test_a_full_buffer_is_one_piece(self) -> None:
        for sizes in ([8] * 5, [8, 8, 3], [1], [8]):
            payloads = [bytes([65 + i]) * size for i, size in enumerate(sizes)]
            buffer = _received(payloads)
            self.assertEqual(len(buffer.views()), 1)
            self.assertEqual(_flushed(buffer), b"".join(payloads))

    def test_short_packets_in_mid_stream_leave_no_gaps(self) -> None:
        payloads = [b"12345678", b"abc", b"ABCDEFGH", b"x", b"yz"]
        self.assertEqual(_flushed(_received(payloads)), b"".join(payloads))

    def test_a_short_packet_first_and_a_full_one_last(self) -> None:
        payloads = [b"abc", b"12345678"]
        self.assertEqual(_flushed(_received(payloads)), b"".join(payloads))

    def test_packets_that_do_not_add_up(self) -> None:
        for size in (10, 12, 16):
            buffer = _received([b"12345678", b"abc"])
            buffer.ctl = BufferCtl(3, size, 0, 2)
            with self.assertRaisesRegex(InconsistentBuffer, f"buffer 3 .* {size} .* 11"):
                buffer.flush(lambda views: self.fail("half a buffer was written"))

    def test_an_incomplete_buffer_is_not_flushed(self) -> None:
        buffer = _received([b"12345678", b"abc"], order=(0,))
        with self.assertRaises(InconsistentBuffer):
            buffer.views()

    def test_a_failing_write_is_the_caller_s(self) -> None:
        def full(views: Sequence[memoryview]) -> None:
            raise OSError(28, "No space left on device")

        with self.assertRaises(OSError):
            _received([b"x"]).flush(full)

    @PROPERTY
    @given(
        st.lists(st.binary(min_size=1, max_size=_CAPACITY), max_size=_PACKETS),
        st.integers(0, 0x7FFFFFFF),
        st.randoms(use_true_random=False),
        st.lists(st.integers(0, _PACKETS - 1), max_size=10),
    )
    def test_any_order_and_repetition_gives_the_same_bytes(
        self, payloads: list[bytes], base: int, rng: random.Random, repeated: list[int]
    ) -> None:
        order = [*range(len(payloads)), *(slot for slot in repeated if slot < len(payloads))]
        rng.shuffle(order)
        buffer = _received(payloads, base, order)
        self.assertTrue(buffer.complete)
        self.assertEqual(_flushed(buffer), b"".join(payloads))
