"""The rate that follows the slowest client, on links that lose what does not fit."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from twisted.trial import unittest

from kollacast.core.rate_control import RateControl

_PACKETS = 4000
_LINE_BPS = 1e9


@dataclass
class _Link:
    """A client's way: what exceeds ``bps`` is lost, and of the rest a random share."""

    bps: float = _LINE_BPS
    loss: float = 0.0


class _Session:
    """Buffer after buffer at the rate that the control asks for, up to that of the line."""

    def __init__(self, links: Sequence[_Link], *, reports_late: bool = False) -> None:
        self.links = links
        self.control = RateControl()
        self.random = random.Random(1)
        self.rates: list[float] = []
        self._late: tuple[int, float, dict[Hashable, float]] | None = None
        self._reports_late = reports_late

    def buffers(self, count: int, packets: int = _PACKETS) -> None:
        for _ in range(count):
            epoch = self.control.epoch
            sent_bps = min(self.control.rate_bps or _LINE_BPS, _LINE_BPS)
            self.rates.append(sent_bps)
            losses: dict[Hashable, float] = {
                number: self._lost(link, sent_bps, packets) / packets
                for number, link in enumerate(self.links)
            }
            report = (epoch, sent_bps, losses)
            if self._reports_late:
                report, self._late = self._late or report, report
            epoch, sent_bps, losses = report
            self.control.report(epoch, sent_bps, packets, losses)

    def _lost(self, link: _Link, sent_bps: float, packets: int) -> int:
        through = int(packets * min(link.bps / sent_bps, 1.0))
        random_loss = sum(self.random.random() < link.loss for _ in range(through))
        return packets - through + random_loss

    def mean_of_last(self, count: int) -> float:
        return sum(self.rates[-count:]) / count


class Rates(unittest.SynchronousTestCase):
    def test_a_line_that_takes_everything_is_not_limited(self) -> None:
        session = _Session([_Link(), _Link()])
        session.buffers(30)
        self.assertIsNone(session.control.rate_bps)

    def test_it_comes_to_what_the_slowest_client_can_take(self) -> None:
        for bps in (700e6, 200e6, 30e6):
            for reports_late in (False, True):
                session = _Session([_Link(), _Link(bps), _Link()], reports_late=reports_late)
                session.buffers(8)
                self.assertLess(session.rates[-1], 1.05 * bps)
                session.buffers(60)
                self.assertGreater(session.mean_of_last(50), 0.8 * bps)
                self.assertLess(session.mean_of_last(50), 1.1 * bps)

    def test_steady_random_loss_is_no_congestion(self) -> None:
        for loss in (0.01, 0.05, 0.3):
            session = _Session([_Link(), _Link(loss=loss), _Link(loss=loss / 2)])
            session.buffers(80)
            self.assertGreater(session.mean_of_last(60), 0.85 * _LINE_BPS, f"{loss:.0%} loss")

    def test_a_bottleneck_behind_random_loss(self) -> None:
        session = _Session([_Link(300e6, loss=0.05), _Link()])
        session.buffers(80)
        self.assertGreater(session.mean_of_last(50), 0.5 * 300e6)
        self.assertLess(session.mean_of_last(50), 1.2 * 300e6)

    def test_it_rises_again_when_the_bottleneck_goes_away(self) -> None:
        link = _Link(100e6)
        session = _Session([link])
        session.buffers(20)
        self.assertLess(session.rates[-1], 110e6)
        link.bps = _LINE_BPS
        session.buffers(60)
        self.assertGreater(session.rates[-1], 0.9 * _LINE_BPS)

    def test_a_client_that_receives_nothing_has_no_say(self) -> None:
        session = _Session([_Link(loss=1.0), _Link()])
        session.buffers(20)
        self.assertIsNone(session.control.rate_bps)

    def test_nobody_is_left(self) -> None:
        session = _Session([])
        session.buffers(3)
        self.assertIsNone(session.control.rate_bps)

    def test_a_few_packets_measure_nothing(self) -> None:
        session = _Session([_Link(10e6)])
        session.buffers(10, packets=20)
        self.assertIsNone(session.control.rate_bps)

    def test_every_change_begins_an_epoch(self) -> None:
        control = RateControl()
        control.report(0, 1e9, 4000, {"slow": 0.5})
        assert control.rate_bps is not None
        self.assertEqual(control.epoch, 1)
        self.assertLess(control.rate_bps, 0.5e9)
        self.assertGreater(control.rate_bps, 0.4e9)

    def test_it_never_comes_to_a_stop(self) -> None:
        """A client that takes next to nothing costs the others time, but not the session."""
        session = _Session([_Link(0.5e6), _Link()])
        session.buffers(60)
        self.assertLess(min(session.rates), 1.1e6)
        self.assertGreater(min(session.rates), 0.9e6)
