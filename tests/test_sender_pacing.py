"""The sender at a given rate, on a clock that the test turns and a socket that takes everything.

What leaves is counted as the link does: datagrams with their IP and UDP headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial import unittest

from kollacast.packets.buffer import PacketBuffer
from kollacast.transport.pacing import Pacer
from kollacast.transport.sender import MulticastProtocol
from kollacast.wire.structures import IP_UDP_HEADER_SIZE, PACKET_HEADER_SIZE

_CAPACITY = 1460
_PACKET_BITS = 8 * (_CAPACITY + PACKET_HEADER_SIZE + IP_UDP_HEADER_SIZE)
_PACKETS = 4096
_RATES = (10e6, 200e6, 5e9)


class _Codec:
    """Seals nothing: at 5 Gbit/s the sums would take longer than the test."""

    def seal(self, *args: Any) -> None:
        pass


class _Link:
    """The transport and the socket: keeps when how much has left, and of which buffer."""

    def __init__(self, clock: Clock, segments: bool) -> None:
        self.socket = self
        self.writing = False
        self.sent: list[tuple[float, int, int]] = []
        self._clock = clock
        self._segments = segments

    def startWriting(self) -> None:
        self.writing = True

    def stopWriting(self) -> None:
        self.writing = False

    def setsockopt(self, *args: Any) -> None:
        if not self._segments:
            raise OSError("no segments")

    def sendmsg(self, iov: Sequence[memoryview], *args: Any) -> int:
        count = len(iov) // 2
        mark = iov[1][0]
        self.sent.append((self._clock.seconds(), _PACKET_BITS * count, mark))
        return sum(map(len, iov))

    def bits(self, began: float = 0.0) -> int:
        return sum(bits for at, bits, _ in self.sent if at >= began)


class _SenderTest(unittest.SynchronousTestCase):
    def begin(self, rate_bps: float | None, *, segments: bool = True) -> None:
        self.random = Random(1)
        self.clock = Clock()
        self.pacer = Pacer(self.clock, rate_bps)
        codec: Any = _Codec()
        self.sender = MulticastProtocol(
            self.clock, codec, self.pacer, ("239.0.0.1", 9), descending=False
        )
        self.link = _Link(self.clock, segments)
        self.sender.transport = self.link  # type: ignore[assignment]
        self.sender.startProtocol()
        self.rates: list[float] = []
        self.normal = self.filled(_PACKETS, 1)

    def filled(self, packets: int, mark: int) -> PacketBuffer:
        """A buffer whose every payload begins with this byte."""
        buffer = PacketBuffer(_CAPACITY, packets)
        buffer.announce(1, 0, packets * _CAPACITY)
        for payload in buffer.payloads:
            payload[0] = mark
        return buffer

    def again_and_again(self) -> None:
        """Multicast the same buffer for as long as the test runs, as the server does."""

        def left(rate_bps: float) -> None:
            self.rates.append(rate_bps)
            self.again_and_again()

        self.sender.multicast(self.normal).addCallback(left)

    def run_for(self, seconds: float, late_s: float = 0.0) -> None:
        """Let time pass; timers go off up to ``late_s`` late."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            while self.link.writing:
                self.sender.writable()
            timers = [call.getTime() for call in self.clock.getDelayedCalls()]
            due = min(timers, default=end) + late_s * self.random.random()
            self.clock.advance(max(min(due, end) - self.clock.seconds(), 1e-9))


class Rates(_SenderTest):
    def assert_rate(self, rate_bps: float, began: float = 0.0) -> None:
        seconds = self.clock.seconds() - began
        self.assertLess(abs(self.link.bits(began) / seconds / rate_bps - 1), 0.01, rate_bps)

    def test_it_is_kept_over_a_second(self) -> None:
        for rate_bps in _RATES:
            self.begin(rate_bps)
            self.again_and_again()
            self.run_for(1.0)
            self.assert_rate(rate_bps)

    def test_also_where_packets_leave_one_by_one(self) -> None:
        for rate_bps in _RATES[:2]:
            self.begin(rate_bps, segments=False)
            self.again_and_again()
            self.run_for(1.0)
            self.assert_rate(rate_bps)

    def test_also_where_every_timer_is_late(self) -> None:
        """A busy machine wakes the process some milliseconds after its time."""
        for rate_bps in _RATES:
            self.begin(rate_bps)
            self.again_and_again()
            self.run_for(1.0, late_s=0.005)
            self.assert_rate(rate_bps)

    def test_what_was_missed_for_long_is_not_made_up_for(self) -> None:
        """It would overflow the queue of a switch's port."""
        for rate_bps in _RATES:
            self.begin(rate_bps)
            self.again_and_again()
            self.run_for(0.1)
            self.clock.advance(0.5)
            began = self.clock.seconds()
            self.run_for(0.001)
            burst = self.link.bits(began)
            self.assertLess(burst, 0.015 * rate_bps + 2 * _PACKET_BITS)
            self.run_for(1.0)
            self.assertLess(abs(self.link.bits(began) / 1.011 / rate_bps - 1), 0.01)

    def test_nothing_leaves_in_larger_bursts_than_a_few_milliseconds(self) -> None:
        for rate_bps in _RATES:
            self.begin(rate_bps)
            self.again_and_again()
            self.run_for(0.2)
            times = sorted({at for at, *_ in self.link.sent})[1:]
            for at in times[::7]:
                burst = sum(bits for sent, bits, _ in self.link.sent if sent == at)
                self.assertLessEqual(burst, 0.004 * rate_bps + _PACKET_BITS)

    def test_the_rate_is_told_of_each_buffer(self) -> None:
        for rate_bps, tolerance in ((200e6, 0.01), (1e9, 0.05)):
            self.begin(rate_bps)
            self.again_and_again()
            self.run_for(1.0, late_s=0.001)
            self.assertGreater(len(self.rates), 2)
            for told in self.rates:
                self.assertLess(abs(told / rate_bps - 1), tolerance)

    def test_a_new_rate_counts_at_once(self) -> None:
        self.begin(200e6)
        self.again_and_again()
        self.run_for(0.5)
        for rate_bps in (50e6, 800e6):
            self.pacer.rate_bps = rate_bps
            began = self.clock.seconds()
            self.run_for(1.0)
            self.assertLess(abs(self.link.bits(began) / rate_bps - 1), 0.02)

    def test_what_leaves_by_another_way_takes_its_share(self) -> None:
        """Retransmissions by TCP are told to the pacer."""
        self.begin(200e6)
        self.again_and_again()
        for _ in range(10):
            self.pacer.sent(1_000_000)
            self.run_for(0.1)
        self.assertLess(abs(self.link.bits() / (200e6 - 80e6) - 1), 0.02)


class Urgency(_SenderTest):
    def test_what_is_urgent_leaves_first_and_takes_its_share_of_the_rate(self) -> None:
        self.begin(200e6)
        self.again_and_again()
        self.run_for(0.1)
        before = len(self.link.sent)
        urgent: list[Deferred[float]] = [
            self.sender.multicast(self.filled(500, mark), urgent=True) for mark in (2, 3)
        ]
        self.run_for(1.0)
        self.assertTrue(all(finished.called for finished in urgent))
        marks = [mark for *_, mark in self.link.sent[before:]]
        self.assertEqual(sorted(marks[: marks.index(1)]), marks[: marks.index(1)])
        self.assertEqual(set(marks[: marks.index(1)]), {2, 3})
        self.assertEqual(set(marks[marks.index(1) :]), {1})
        self.assertLess(abs(self.link.bits() / 1.1 / 200e6 - 1), 0.01)

    def test_a_buffer_that_was_interrupted_goes_on_where_it_was(self) -> None:
        self.begin(200e6)
        whole = self.sender.multicast(self.normal)
        self.run_for(0.05)
        self.sender.multicast(self.filled(10, 2), urgent=True)
        while not whole.called:
            self.run_for(0.01)
        self.assertEqual(self.link.bits(), (_PACKETS + 10) * _PACKET_BITS)
        # The rate is that of all that left meanwhile: it is what the link took.
        self.assertLess(abs(self.successResultOf(whole) / 200e6 - 1), 0.02)

    def test_without_a_rate_it_comes_after_the_batches_of_one_turn(self) -> None:
        self.begin(None)
        self.again_and_again()
        self.sender.writable()
        self.sender.multicast(self.filled(10, 2), urgent=True)
        before = len(self.link.sent)
        self.sender.writable()
        self.assertEqual(self.link.sent[before][2], 2)
