"""The rate at which multicast leaves, on a clock that the test turns."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial import unittest

from kollacast.transport.pacing import Pacer

_BATCH = 44 * 1500
_RATE_BPS = 400e6


class _Sender:
    """Sends whenever it may; its timers go off ``late_s`` late."""

    def __init__(self, rate_bps: float | None, batch: int = _BATCH, late_s: float = 0.0) -> None:
        self.clock = Clock()
        self.pacer = Pacer(self.clock, rate_bps)
        self.batch = batch
        self.late_s = late_s
        self.sent = 0

    def run(self, seconds: float) -> float:
        """Send for so long; returns the bits a second that left."""
        began, before = self.clock.seconds(), self.sent
        while self.clock.seconds() - began < seconds:
            self.burst()
            self.clock.advance(self.pacer.delay_s() + self.late_s)
        return (self.sent - before) * 8 / (self.clock.seconds() - began)

    def burst(self) -> int:
        """Send all that may leave now; returns its bytes."""
        size = 0
        while self.pacer.delay_s() == 0 and size < 100_000_000:
            self.pacer.sent(self.batch)
            size += self.batch
        self.sent += size
        return size


class Rates(unittest.SynchronousTestCase):
    def near(self, measured: float, rate_bps: float) -> None:
        self.assertGreater(measured, 0.98 * rate_bps)
        self.assertLess(measured, 1.02 * rate_bps)

    def test_the_rate_is_kept_at_every_size_of_batch(self) -> None:
        for batch in (100, 1500, _BATCH):
            self.near(_Sender(_RATE_BPS, batch).run(0.2), _RATE_BPS)

    def test_slow_and_fast(self) -> None:
        self.near(_Sender(1e6, 1500).run(10.0), 1e6)
        self.near(_Sender(10e9).run(0.2), 10e9)

    def test_timers_that_are_late_do_not_lower_the_rate(self) -> None:
        """A reactor's timers have a granularity of a millisecond."""
        self.near(_Sender(_RATE_BPS, late_s=0.001).run(1.0), _RATE_BPS)

    def test_without_a_rate_nothing_waits(self) -> None:
        pacer = Pacer(Clock(), None)
        for _ in range(1000):
            self.assertEqual(pacer.delay_s(), 0.0)
            pacer.sent(_BATCH)
        self.assertGreater(pacer.burst_bytes(), 1e12)

    def test_the_delay_is_what_the_last_batch_takes(self) -> None:
        clock = Clock()
        pacer = Pacer(clock, 8000.0)
        self.assertEqual(pacer.delay_s(), 0.0)
        while not pacer.delay_s():
            pacer.sent(100)
        self.assertAlmostEqual(pacer.delay_s(), 0.1, delta=0.011)
        clock.advance(pacer.delay_s() / 2)
        self.assertAlmostEqual(pacer.delay_s(), 0.05, delta=0.006)
        clock.advance(pacer.delay_s())
        self.assertEqual(pacer.delay_s(), 0.0)

    def test_a_rest_earns_only_a_short_burst(self) -> None:
        """A burst of more than the queue of a switch's port would be lost there."""
        sender = _Sender(_RATE_BPS)
        sender.run(0.1)
        sender.clock.advance(60.0)
        self.assertLess(sender.burst(), _RATE_BPS / 8 * 0.010 + 2 * _BATCH)
        self.near(sender.run(1.0), _RATE_BPS)

    def test_a_burst_is_a_few_milliseconds_of_the_rate(self) -> None:
        burst = Pacer(Clock(), _RATE_BPS).burst_bytes()
        self.assertGreater(burst, _RATE_BPS / 8 * 0.0005)
        self.assertLess(burst, _RATE_BPS / 8 * 0.005)

    def test_the_rate_changes_in_mid_stream(self) -> None:
        sender = _Sender(_RATE_BPS)
        sender.run(0.5)
        sender.pacer.rate_bps = _RATE_BPS / 4
        self.near(sender.run(1.0), _RATE_BPS / 4)
        sender.pacer.rate_bps = _RATE_BPS * 2
        self.near(sender.run(1.0), _RATE_BPS * 2)
        sender.pacer.rate_bps = None
        self.assertGreaterEqual(sender.burst(), 100_000_000)

    def test_what_leaves_by_another_way_is_counted_too(self) -> None:
        clock = Clock()
        pacer = Pacer(clock, _RATE_BPS)
        pacer.sent(int(_RATE_BPS / 8))
        self.assertAlmostEqual(pacer.delay_s(), 1.0, delta=0.011)
