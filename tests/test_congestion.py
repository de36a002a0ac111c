"""The congestion control against simulated networks: a bottleneck, random loss, and late reports.

Buffers leave one after another, as large as the server would make them, and repairs take their
share.  Rates and losses are means over the buffers that follow once the rate should have settled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import product
from math import inf
from random import Random

from twisted.trial import unittest

from kollacast import congestion
from kollacast.congestion.control import Epoch, FixedRate
from kollacast.congestion.trials import Trials
from kollacast.sending.buffer_sizing import BufferSizing

_KIB = 1024
_CAPACITY = 1460
_MAX_PACKETS = 6 * _KIB * _KIB // _CAPACITY
_PACKET_BITS = 8 * 1500
#: What the server's own link takes: there the kernel pushes back, and nothing is lost.
_LINE_BPS = 4e9
#: Buffers after which a rate must have settled, and over which it is then measured.
_SETTLE = 60
_MEASURE = 60


@dataclass
class _Means:
    """Over some buffers: the rate, the share that the bottleneck dropped, bits that were sent."""

    bps: float
    dropped: float


@dataclass
class _Report:
    due: int
    epoch: Epoch
    bps: float
    packets: int
    losses: dict[Hashable, float]
    repair_bits: float = 0.0
    burst: int = 1

    def bursts(self) -> dict[Hashable, float]:
        """What the requests of those who lack something show."""
        return {client: float(self.burst) for client, share in self.losses.items() if share}


@dataclass
class _Network:
    """Clients that each lose ``losses`` at random, the first behind a bottleneck.

    ``used`` is the part of its rate at which the server manages to send, and
    ``late`` whether the client behind the bottleneck answers after the others.
    """

    seed: int
    bottleneck_bps: float = inf
    queue_bytes: int = 1024 * _KIB
    losses: list[float] = field(default_factory=lambda: [0.0] * 4)
    line_bps: float = _LINE_BPS
    #: Each buffer's random loss strays by this part of it.
    stray: float = 0.0
    #: In every buffer of so many one client loses most, another one each time; 0 for none.
    hiccup_every: int = 0
    late: bool = False
    #: So many packets are lost at a time.
    burst: int = 1

    def __post_init__(self) -> None:
        self.control = Trials()
        self.random = Random(self.seed)
        self.sizing = BufferSizing(_CAPACITY, _MAX_PACKETS, len(self.losses), fixed=False)
        self.read_ahead = deque(self.sizing.next() for _ in range(4))
        self.sent = 0
        self.queued_bits = 0.0
        self.repair_bits = 0.0
        self.due = 0
        self.reports: list[_Report] = []

    def run(self, buffers: int) -> _Means:
        bits = seconds = packets = dropped = 0.0
        for _ in range(buffers):
            took, left, count, lost = self.buffer()
            bits += left
            seconds += took
            packets += count
            dropped += lost
        return _Means(bits / seconds, dropped / packets)

    def settled(self, buffers: int = _SETTLE) -> _Means:
        self.run(buffers)
        return self.run(_MEASURE)

    def buffer(self) -> tuple[float, float, int, float]:
        """Send one: seconds that it took, bits that left, its packets, and those dropped."""
        for report in [report for report in self.reports if report.due <= self.sent]:
            self.reports.remove(report)
            self.control.report(
                report.epoch, report.bps, report.packets, report.losses, report.bursts()
            )
            self.repair_bits += report.repair_bits
        epoch = self.control.epoch
        bps = min(self.control.rate_bps or inf, self.line_bps)
        packets = self.read_ahead.popleft()
        bits = packets * _PACKET_BITS + self.repair_bits
        self.repair_bits = 0.0
        drop = self.drop(bps, bits / bps)
        losses: dict[Hashable, float] = {
            client: self.lost(
                1 - (1 - self.chance(client)) * (1 - (0 if client else drop)), packets
            )
            for client in range(len(self.losses))
        }
        measured = bps * self.random.uniform(0.98, 1.02)
        self.sizing.sent(measured)
        self.read_ahead.append(self.sizing.next())
        self.sent += 1
        self.tell(_Report(0, epoch, measured, packets, losses, burst=self.burst))
        return bits / bps, bits, packets, drop * packets

    def tell(self, report: _Report) -> None:
        """Reports come one to three buffers later, in order."""
        report.due = self.due = max(self.sent - 1 + self.random.randint(1, 3), self.due)
        mended = [share for share in report.losses.values() if share < 1]
        report.repair_bits = 1.15 * max(mended, default=0.0) * report.packets * _PACKET_BITS
        self.reports.append(report)
        if self.late:
            alone: dict[Hashable, float] = {0: report.losses.pop(0)}
            self.reports.append(
                _Report(
                    report.due + 1,
                    report.epoch,
                    report.bps,
                    report.packets,
                    alone,
                    burst=self.burst,
                )
            )

    def drop(self, bps: float, seconds: float) -> float:
        """The share that finds the queue of the bottleneck full."""
        if self.bottleneck_bps == inf:
            self.queued_bits = 0.0
            return 0.0
        self.queued_bits += (bps - self.bottleneck_bps) * seconds
        over = max(self.queued_bits - 8 * self.queue_bytes, 0.0)
        self.queued_bits = max(self.queued_bits - over, 0.0)
        return over / (bps * seconds)

    def chance(self, client: int) -> float:
        share = self.losses[client]
        if self.stray:
            share *= self.random.uniform(1 - self.stray, 1 + self.stray)
        if self.hiccup_every:
            turn, rest = divmod(self.sent, self.hiccup_every)
            if rest == 0 and turn % len(self.losses) == client:
                share = self.random.uniform(0.2, 0.99)
        return share

    def lost(self, share: float, packets: int) -> float:
        """The share that is lost of ``packets`` when each is lost with this probability."""
        packets = max(packets // self.burst, 1)
        mean = share * packets
        if min(mean, packets - mean) > 30:
            deviation = (mean * (1 - share)) ** 0.5
            return round(min(max(self.random.gauss(mean, deviation), 0), packets)) / packets
        rare = min(share, 1 - share)
        count = sum(self.random.random() < rare for _ in range(packets)) if rare > 0 else 0
        return (count if rare == share else packets - count) / packets


class Bottlenecks(unittest.SynchronousTestCase):
    """One client's port is slower than all the rest."""

    def near(self, network: _Network, means: _Means, tolerance: float = 0.05) -> None:
        self.assertLess(abs(means.bps / network.bottleneck_bps - 1), tolerance, (network, means))
        # Beside a heavy random loss more congestion looks like chance.
        dropped = 0.03 if network.losses[0] >= 0.3 else 0.02
        self.assertLess(means.dropped, dropped, (network, means))

    def test_from_above(self) -> None:
        rates, queues = (100e6, 200e6, 500e6, 950e6, 2e9), (256, 1024, 2048)
        for seed, (bps, kib) in enumerate(product(rates, queues)):
            network = _Network(seed, bps, kib * _KIB)
            self.near(network, network.settled())

    def test_it_is_found_within_a_dozen_buffers(self) -> None:
        for seed, bps in enumerate((100e6, 200e6, 950e6)):
            network = _Network(seed, bps)
            network.run(12)
            self.assertLess(network.control.rate_bps or inf, 1.1 * bps)
            self.near(network, network.run(_MEASURE), 0.15)

    def test_a_slow_one(self) -> None:
        """Buffers are small there and the queue is long, so that losses are seen late."""
        for seed in range(3):
            network = _Network(seed, 50e6, 256 * _KIB)
            self.near(network, network.settled())

    def test_one_without_a_queue(self) -> None:
        """A policer drops all that exceeds its rate."""
        for seed, bps in enumerate((100e6, 500e6)):
            network = _Network(seed, bps, 0)
            self.near(network, network.settled())

    def test_one_that_takes_next_to_nothing(self) -> None:
        """It costs the others time, but not the session."""
        network = _Network(1, 0.5e6, 64 * _KIB)
        for _ in range(_SETTLE):
            network.buffer()
            self.assertGreaterEqual(network.control.rate_bps or inf, 1e6)

    def test_from_below(self) -> None:
        for seed, kib in enumerate((256, 1024, 2048)):
            network = _Network(seed, 100e6, kib * _KIB)
            network.run(_SETTLE)
            network.bottleneck_bps = 400e6
            self.near(network, network.settled(80))

    def test_it_comes_later(self) -> None:
        network = _Network(1)
        network.run(20)
        for bps in (800e6, 200e6):
            network.bottleneck_bps = bps
            self.near(network, network.settled())

    def test_it_goes_away(self) -> None:
        for seed in range(3):
            network = _Network(seed, 200e6)
            network.run(_SETTLE)
            network.bottleneck_bps = inf
            self.assertGreater(network.settled(80).bps, 0.97 * _LINE_BPS)

    def test_with_random_loss(self) -> None:
        for seed, (share, kib) in enumerate(product((0.01, 0.05, 0.1, 0.3), (512, 2048))):
            network = _Network(seed, 300e6, kib * _KIB, [share] * 4)
            self.near(network, network.settled())

    def test_with_random_loss_at_others_or_at_that_client_alone(self) -> None:
        for seed, losses in enumerate(([0.0, 0.1, 0.3, 0.02], [0.3, 0.0, 0.02, 0.1])):
            network = _Network(seed, 200e6, losses=losses)
            self.near(network, network.settled())

    def test_the_random_loss_goes_away(self) -> None:
        network = _Network(2, 200e6, losses=[0.1] * 4)
        network.run(_SETTLE)
        network.losses = [0.0] * 4
        self.near(network, network.settled())

    def test_its_client_always_answers_last(self) -> None:
        """Its answers pass the same queue as the data, and miss the grace of others."""
        for seed, share in enumerate((0.0, 0.05)):
            network = _Network(seed, 200e6, losses=[share] * 4, late=True)
            self.near(network, network.settled())

    def test_it_is_close_to_the_server_s_own_link(self) -> None:
        for seed, line_bps in enumerate((505e6, 1e9)):
            network = _Network(seed, 500e6, line_bps=line_bps)
            self.near(network, network.settled())


class RandomLosses(unittest.SynchronousTestCase):
    """Nothing is gained by a lower rate."""

    def unlimited(self, network: _Network, buffers: int = 20) -> None:
        means = network.settled(buffers)
        self.assertGreater(means.bps, 0.97 * network.line_bps, (network, means))

    def test_steady_loss_does_not_ratchet_the_rate_down(self) -> None:
        for seed, (share, line_bps) in enumerate(product((0.01, 0.05, 0.1, 0.3), (4e9, 200e6))):
            self.unlimited(_Network(seed, losses=[share] * 4, line_bps=line_bps))

    def test_losses_of_many_packets_at_a_time(self) -> None:
        """As of super-packets: single buffers lack nothing, or several per cent.

        A buffer is 98 accidents then, and so it takes longer to know.
        """
        for share in (0.01, 0.05, 0.2):
            for seed in range(5):
                self.unlimited(_Network(seed, losses=[share] * 4, burst=44), buffers=120)

    def test_small_buffers_leave_more_to_chance(self) -> None:
        for seed, share in enumerate((0.01, 0.05, 0.1, 0.3)):
            self.unlimited(_Network(seed, losses=[share] * 4, line_bps=30e6), 80)

    def test_with_many_clients_one_always_has_bad_luck(self) -> None:
        for seed, share in enumerate((0.01, 0.1)):
            self.unlimited(_Network(seed, losses=[share] * 200))

    def test_loss_that_grows(self) -> None:
        network = _Network(3, losses=[0.01] * 4)
        network.run(20)
        network.losses = [0.1] * 4
        self.unlimited(network)

    def test_loss_that_strays_more_than_chance(self) -> None:
        for seed, share in enumerate((0.01, 0.05, 0.05)):
            self.unlimited(_Network(seed, losses=[share] * 4, stray=0.2), 40)

    def test_a_hiccup_of_one_client_costs_nothing(self) -> None:
        """A buffer of which a busy client lost most, and then all is well again."""
        for seed in range(3):
            self.unlimited(_Network(seed, hiccup_every=9))
            network = _Network(seed, 200e6, hiccup_every=9)
            self.assertLess(abs(network.settled().bps / 200e6 - 1), 0.05, network)


class Reports(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.control = Trials()

    def report(self, loss: float, *, bps: float = 1e9, times: int = 1, packets: int = 4000) -> None:
        for _ in range(times):
            self.control.report(self.control.epoch, bps, packets, {"a": loss, "b": 0.0})

    def settle(self) -> float:
        """Find a bottleneck of half the rate."""
        self.report(0.5, times=2)
        assert self.control.rate_bps is not None
        self.report(0.0, bps=self.control.rate_bps)
        return self.control.rate_bps

    def test_it_begins_without_a_limit(self) -> None:
        self.assertIsNone(self.control.rate_bps)
        self.report(0.0, times=10)
        self.assertIsNone(self.control.rate_bps)

    def test_two_buffers_with_losses_are_congestion(self) -> None:
        self.report(0.5)
        self.assertIsNone(self.control.rate_bps)
        self.report(0.5)
        self.assertAlmostEqual(self.control.rate_bps, 0.9 * 0.5e9)

    def test_the_rate_settles_below_what_was_received(self) -> None:
        self.assertAlmostEqual(self.settle(), 0.98 * 0.5e9)

    def test_every_change_begins_an_epoch(self) -> None:
        rate, epoch = self.control.rate_bps, self.control.epoch
        for loss in (0.5, 0.5, 0.0, 0.0, 0.3, 0.3, 0.0, *[0.0] * 20):
            self.report(loss, bps=self.control.rate_bps or 1e9)
            if self.control.rate_bps != rate:
                self.assertGreater(self.control.epoch, epoch)
            else:
                self.assertEqual(self.control.epoch, epoch)
            rate, epoch = self.control.rate_bps, self.control.epoch

    def test_buffers_that_left_before_a_cut_say_nothing_against_it(self) -> None:
        epoch = self.control.epoch
        rate = self.settle()
        for _ in range(10):
            self.control.report(epoch, 1e9, 4000, {"a": 0.5, "b": 0.0})
        self.assertEqual(self.control.rate_bps, rate)

    def test_a_client_that_receives_nothing_has_no_say(self) -> None:
        self.report(1.0, times=20)
        self.assertIsNone(self.control.rate_bps)
        for _ in range(20):
            self.control.report(self.control.epoch, 1e9, 4000, {"a": 1.0})
        self.assertIsNone(self.control.rate_bps)

    def test_a_client_that_receives_nothing_any_more_holds_nothing_up(self) -> None:
        self.report(0.5, times=2)
        self.report(1.0, bps=self.control.rate_bps or 0.0)
        self.report(1.0, bps=self.control.rate_bps or 0.0, times=100)
        self.assertGreater(self.control.rate_bps or inf, 1e9)

    def test_a_client_that_leaves_holds_nothing_up(self) -> None:
        self.report(0.5, times=2)
        self.control.forget("a")
        cut = self.control.rate_bps
        assert cut is not None
        for _ in range(60):
            bps = min(self.control.rate_bps or inf, 1e9)
            self.control.report(self.control.epoch, bps, 4000, {"b": 0.0})
        self.assertGreater(self.control.rate_bps or inf, 2 * cut)

    def test_one_that_was_never_heard_of_may_leave(self) -> None:
        self.control.forget("stranger")
        self.assertGreater(self.settle(), 0)

    def test_back_pressure_does_not_raise_the_rate(self) -> None:
        """What was not tried is not known: the rate stays within reach of what leaves."""
        self.settle()
        self.report(0.0, bps=0.2e9, times=300)
        self.assertLess(self.control.rate_bps or inf, 0.6e9)
        self.report(0.0, bps=1.0e9, times=300)
        self.assertLess(self.control.rate_bps or inf, 2e9)

    def test_tiny_buffers_measure_nothing(self) -> None:
        """The last one of an image may have one packet."""
        self.report(0.5, packets=10, times=20)
        self.assertIsNone(self.control.rate_bps)
        rate = self.settle()
        self.report(0.9, packets=10, times=20)
        self.report(0.0, bps=rate, packets=10, times=100)
        self.assertEqual(self.control.rate_bps, rate)

    def test_nobody_was_heard(self) -> None:
        for _ in range(20):
            self.control.report(self.control.epoch, 1e9, 4000, {})
        self.assertIsNone(self.control.rate_bps)

    def test_the_rate_never_falls_to_nothing(self) -> None:
        for _ in range(200):
            self.report(0.99, bps=self.control.rate_bps or 1e9)
            self.assertGreaterEqual(self.control.rate_bps or inf, 1e6)


class Choice(unittest.SynchronousTestCase):
    """Which control a server gets."""

    def test_without_a_rate_one_is_found(self) -> None:
        self.assertIsInstance(congestion.choose(None), Trials)
        self.assertIsInstance(congestion.choose(None, "trials"), Trials)

    def test_a_rate_that_is_given_stays_whatever_is_lost(self) -> None:
        control = congestion.choose(5e6)
        self.assertIsInstance(control, FixedRate)
        for share in (0.5, 0.9):
            control.report(control.epoch, 5e6, 4000, {"a": share}, {"a": 2.0})
        control.forget("a")
        self.assertEqual((control.rate_bps, control.epoch), (5e6, FixedRate(1.0).epoch))
