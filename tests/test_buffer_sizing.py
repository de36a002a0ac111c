"""How large buffers are: soon through at any rate, and worth their messages for any crowd."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.sending.buffer_sizing import BufferSizing
from tests.vectors import PROPERTY

_CAPACITY = 1460
_MAX_PACKETS = 4309
_KIB = 1024


def _sizing(clients: int = 4, *, size: int | None = None, fixed: bool = False) -> BufferSizing:
    return BufferSizing(_CAPACITY, _MAX_PACKETS, clients, size=size, fixed=fixed)


class Sizes(unittest.SynchronousTestCase):
    def settle(self, sizing: BufferSizing, bps: float) -> int:
        """The size after some buffers at this rate."""
        for _ in range(20):
            sizing.next()
            sizing.sent(bps)
        return sizing.next()

    def test_the_first_ones_are_small_and_grow(self) -> None:
        """They leave before anything is known of the network."""
        sizing = _sizing()
        sizes = [sizing.next() for _ in range(6)]
        self.assertEqual(sizes[0], 512 * _KIB // _CAPACITY)
        for before, after in pairwise(sizes):
            self.assertEqual(after, min(2 * before, _MAX_PACKETS))
        self.assertEqual(sizes[-1], _MAX_PACKETS)

    def test_a_buffer_leaves_in_a_fraction_of_a_second(self) -> None:
        for bps in (50e6, 100e6, 200e6):
            seconds = self.settle(_sizing(), bps) * _CAPACITY * 8 / bps
            self.assertGreater(seconds, 0.1)
            self.assertLess(seconds, 0.2)

    def test_at_high_rates_it_is_as_large_as_may_be(self) -> None:
        self.assertEqual(self.settle(_sizing(), 10e9), _MAX_PACKETS)

    def test_at_low_rates_it_is_still_worth_its_messages(self) -> None:
        self.assertEqual(self.settle(_sizing(), 1e6), 512 * _KIB // _CAPACITY)

    def test_the_more_clients_the_larger(self) -> None:
        """Each costs some 500 bytes of messages a buffer: at most 2 % of it, all together."""
        for clients in (50, 100, 200):
            sizing = _sizing(clients)
            for size in (sizing.next(), self.settle(sizing, 1e6)):
                self.assertGreaterEqual(size * _CAPACITY * 0.02, 0.99 * 500 * clients)
        self.assertEqual(_sizing(1000).next(), _MAX_PACKETS)

    def test_it_follows_the_rate_down_at_once_and_up_by_doubling(self) -> None:
        sizing = _sizing()
        self.settle(sizing, 10e9)
        sizing.sent(100e6)
        low = sizing.next()
        self.assertLess(low, _MAX_PACKETS / 3)
        sizing.sent(10e9)
        self.assertEqual(sizing.next(), 2 * low)

    def test_toward_the_end_they_become_small_again(self) -> None:
        """And no image takes many more of them for it."""
        least = 512 * _KIB // _CAPACITY
        for packets in (1, least, 10 * _MAX_PACKETS, 500_000):
            sizing = _sizing(size=packets * _CAPACITY)
            plain = _sizing()
            sizes: list[int] = []
            plain_sizes: list[int] = []
            while sum(sizes) < packets:
                sizes.append(sizing.next())
            while sum(plain_sizes) < packets:
                plain_sizes.append(plain.next())
            self.assertLessEqual(packets - sum(sizes[:-1]), least)
            self.assertLessEqual(len(sizes), len(plain_sizes) + 4)

    def test_what_the_operator_has_fixed_stays(self) -> None:
        sizing = _sizing(size=10 * _CAPACITY, fixed=True)
        for bps in (1e6, 1e9, 1e3):
            self.assertEqual(sizing.next(), _MAX_PACKETS)
            sizing.sent(bps)

    @PROPERTY
    @given(
        st.integers(16, 9000),
        st.integers(1, 5000),
        st.integers(1, 2000),
        st.booleans(),
        st.lists(st.floats(1.0, 1e12), max_size=20),
        st.none() | st.integers(0, 10**9),
    )
    def test_there_is_always_room_for_it(
        self,
        capacity: int,
        most: int,
        clients: int,
        fixed: bool,
        rates: list[float],
        size: int | None,
    ) -> None:
        sizing = BufferSizing(capacity, most, clients, size=size, fixed=fixed)
        for bps in rates:
            size = sizing.next()
            self.assertIsInstance(size, int)
            self.assertGreaterEqual(size, 1)
            self.assertLessEqual(size, most)
            sizing.sent(bps)
