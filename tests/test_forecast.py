"""How much parity is sent unasked: as the last buffers had needed it, and none where nobody did."""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from kollacast.repair.forecast import NOTHING, Forecast
from kollacast.repair.parity import EXTRA

_PACKETS = 8000


def _lost(chance: Random, share: float, packets: int = _PACKETS) -> int:
    """What a client loses of a buffer where each packet is lost on its own."""
    return max(round(chance.gauss(packets * share, math.sqrt(packets * share * (1 - share)))), 0)


class ForecastTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.forecast = Forecast()
        self.chance = Random(1)

    def hear(self, buffers: int, clients: int, share: float, others: Iterable[int] = ()) -> None:
        for _ in range(buffers):
            lost = [_lost(self.chance, share) for _ in range(clients)]
            self.forecast.heard(_PACKETS, [*lost, *others])

    def rows(self, packets: int = _PACKETS) -> int:
        return self.forecast.ahead(packets).rows

    def test_before_anything_is_known(self) -> None:
        self.assertEqual(self.forecast.ahead(_PACKETS), NOTHING)

    def test_nobody_loses_anything(self) -> None:
        self.hear(3, 1000, 0.0)
        self.assertEqual(self.forecast.ahead(_PACKETS), NOTHING)

    def test_few_clients_are_asked(self) -> None:
        self.hear(8, 16, 0.05)
        self.assertEqual(self.forecast.ahead(_PACKETS), NOTHING)

    def test_it_is_enough_for_nearly_all_and_not_much_more(self) -> None:
        for clients, share in ((20, 0.01), (64, 0.05), (1000, 0.01), (1000, 0.05), (1000, 0.0005)):
            self.setUp()
            asked, sent, worst = 0, 0, 0
            for number in range(30):
                rows = self.rows()
                lost = [_lost(self.chance, share) for _ in range(clients)]
                self.forecast.heard(_PACKETS, lost)
                if number:
                    sent += rows
                    worst += max(lost)
                    asked += sum(rows < (n + 2) / (1 - share) for n in lost)
            self.assertLess(asked / 29, 1.0, (clients, share))
            # Beside what the worst of each buffer needs, a few; and chance.
            limit = (worst / 29 + EXTRA) / (1 - share) + 10 + 0.1 * _PACKETS * share
            self.assertLess(sent / 29, limit, (clients, share))

    def test_what_is_expected_to_be_lost_of_it(self) -> None:
        self.hear(8, 1000, 0.01)
        rows, loss = self.forecast.ahead(_PACKETS)
        self.assertLess(abs((loss * _PACKETS + EXTRA) / (1 - loss) - rows), 1e-6)

    def test_one_that_loses_far_more_than_the_others(self) -> None:
        self.hear(8, 999, 0.01)
        alone = self.rows()
        for much in (400, 1000, 2400, 7000, _PACKETS):
            self.hear(8, 999, 0.01, [much])
            self.assertLess(self.rows(), 1.15 * alone, much)

    def test_one_that_loses_much_where_the_others_lose_nothing(self) -> None:
        self.hear(8, 999, 0.0, [2400])
        self.assertEqual(self.rows(), 0)

    def test_after_the_first_buffer(self) -> None:
        self.hear(1, 1000, 0.01)
        self.assertGreater(self.rows(), 100)

    def test_losses_that_are_over(self) -> None:
        self.hear(8, 1000, 0.01)
        self.hear(8, 1000, 0.0)
        self.assertEqual(self.rows(), 0)

    def test_a_link_that_was_down_for_a_moment(self) -> None:
        """All lost a part of one buffer: that is not sent with each of the next."""
        self.hear(7, 1000, 0.01)
        before = self.rows()
        self.forecast.heard(_PACKETS, [600] * 1000)
        self.hear(1, 1000, 0.01)
        self.assertLess(self.rows(), 6 * before)
        self.hear(7, 1000, 0.01)
        self.assertLess(self.rows(), 1.2 * before)

    def test_more_is_lost_than_can_be_solved_for(self) -> None:
        self.hear(8, 1000, 0.15)
        self.assertEqual(self.rows(), 0)

    def test_a_buffer_of_another_size(self) -> None:
        """Chance counts for more in a small one."""
        self.hear(8, 1000, 0.01)
        for packets in (4000, 2000, 500, 50, 1):
            rows = self.rows(packets)
            worst = sorted(_lost(self.chance, 0.01, packets) for _ in range(1000))[-2]
            self.assertGreaterEqual(rows, worst)
            self.assertLess(rows, 2 * worst + 2 * EXTRA)
