"""How long requests are waited for, by the times that clients took before."""

from __future__ import annotations

from twisted.trial import unittest

from kollacast.sending.answer_times import AnswerTimes


class Waiting(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.times = AnswerTimes()

    def test_nothing_is_known(self) -> None:
        self.times.measured([])
        self.assertEqual(self.times.wait_s, 0.1)

    def test_the_first_time(self) -> None:
        """As RFC 6298 has it: the time, and four times the half of it."""
        self.times.measured([0.05])
        self.assertAlmostEqual(self.times.wait_s, 0.15)

    def test_steady_times(self) -> None:
        for _ in range(40):
            self.times.measured([0.03, 0.05])
        self.assertAlmostEqual(self.times.wait_s, 0.05, places=4)

    def test_a_time_that_grows(self) -> None:
        for _ in range(40):
            self.times.measured([0.05])
        self.times.measured([0.25])
        self.assertAlmostEqual(self.times.wait_s, 0.05 + 0.2 / 8 + 4 * 0.2 / 4, places=4)

    def test_the_bounds(self) -> None:
        self.times.measured([0.0001])
        self.assertEqual(self.times.wait_s, 0.02)
        self.times.measured([3600.0])
        self.assertLessEqual(self.times.wait_s, 1.0)
        for _ in range(40):
            self.times.measured([3600.0])
        self.assertEqual(self.times.wait_s, 1.0)

    def test_of_many_the_last_ones_do_not_count(self) -> None:
        for _ in range(40):
            self.times.measured([0.05] * 7 + [0.9])
        self.assertAlmostEqual(self.times.wait_s, 0.05, places=4)

    def test_of_few_all_count(self) -> None:
        for _ in range(40):
            self.times.measured([0.05] * 6 + [0.9])
        self.assertAlmostEqual(self.times.wait_s, 0.9, places=4)
