"""What goes by TCP beside the multicast: little while that is under way, and all behind it."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kollacast.sending.ration import Ration

_PIECE = 64 * 1024


class RationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sent = 0
        self.ration = Ration(self.clock, lambda: self.sent)
        self.gone = 0

    def fetch(self) -> Deferred[None]:
        def gone(_: None) -> None:
            self.gone += 1

        return self.ration.turn(_PIECE).addCallback(gone)

    def fetch_on(self) -> None:
        """One piece behind the other, for ever."""

        def again(_: None) -> None:
            self.gone += 1
            self.ration.turn(_PIECE).addCallback(again)

        self.ration.turn(_PIECE).addCallback(again)

    def multicast(self, seconds: float, bytes_per_s: float = 125e6) -> None:
        for _ in range(round(seconds / 0.001)):
            self.sent += int(bytes_per_s * 0.001)
            self.clock.advance(0.001)

    def test_nothing_is_multicast(self) -> None:
        for _ in range(100):
            self.successResultOf(self.fetch())

    def test_a_fiftieth_beside_the_multicast(self) -> None:
        self.ration.begin()
        self.fetch_on()
        self.multicast(4.0)
        self.assertAlmostEqual(self.gone * _PIECE / self.sent, 0.02, places=3)

    def test_from_buffer_to_buffer_is_no_pause(self) -> None:
        for _ in range(10):
            self.fetch()
        self.ration.begin()
        for _ in range(20):
            self.multicast(0.01)
            self.ration.end()
            self.clock.advance(0.005)
            self.ration.begin()
        self.assertLess(self.gone * _PIECE, 10 * _PIECE + 0.02 * self.sent + _PIECE)

    def test_a_pause_and_the_end(self) -> None:
        self.ration.begin()
        waiting = [self.fetch() for _ in range(50)]
        self.multicast(0.05)
        self.assertNoResult(waiting[-1])
        self.ration.end()
        self.clock.advance(0.01)
        self.clock.advance(0.01)
        self.assertEqual(self.gone, 50)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_turn(self) -> None:
        self.ration.begin()
        order: list[int] = []
        for number in range(5):
            turn = self.ration.turn(_PIECE)
            turn.addCallback(lambda _, number: order.append(number), number)
        self.multicast(0.3)
        self.assertEqual(order, list(range(5)))

    def test_one_that_goes_away(self) -> None:
        self.ration.begin()
        one, other = self.fetch(), self.fetch()
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.multicast(0.2)
        self.successResultOf(other)

    def test_the_end_of_all(self) -> None:
        self.ration.begin()
        waiting = self.fetch()
        self.ration.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertNoResult(waiting)
