"""Intervals that are added in any order, beside a plain set of integers."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from kollacast.packets.intervals import Intervals


class IntervalsTests(SynchronousTestCase):
    def assert_covers(self, intervals: Intervals, *, count: int, reach: int, has_gap: bool) -> None:
        found = (len(intervals), intervals.reach, intervals.has_gap)
        self.assertEqual(found, (count, reach, has_gap))

    def test_nothing(self) -> None:
        intervals = Intervals()
        intervals.add(3, 3)
        intervals.add(0, 0)
        self.assert_covers(intervals, count=0, reach=0, has_gap=False)

    def test_in_order(self) -> None:
        intervals = Intervals()
        for start in range(0, 50, 10):
            intervals.add(start, start + 10)
            self.assert_covers(intervals, count=1, reach=start + 10, has_gap=False)

    def test_a_gap_that_closes(self) -> None:
        intervals = Intervals()
        intervals.add(20, 30)
        self.assert_covers(intervals, count=1, reach=0, has_gap=True)
        intervals.add(0, 10)
        self.assert_covers(intervals, count=2, reach=10, has_gap=True)
        intervals.add(10, 20)
        self.assert_covers(intervals, count=1, reach=30, has_gap=False)

    def test_one_that_swallows_others(self) -> None:
        intervals = Intervals()
        for start in (5, 15, 25):
            intervals.add(start, start + 5)
        intervals.add(0, 27)
        self.assert_covers(intervals, count=1, reach=30, has_gap=False)
        intervals.add(4, 6)
        self.assert_covers(intervals, count=1, reach=30, has_gap=False)

    def test_at_random(self) -> None:
        random = Random(1)
        for _ in range(300):
            intervals, covered = Intervals(), set[int]()
            for _ in range(random.randrange(1, 12)):
                start = random.randrange(30)
                end = start + random.randrange(8)
                intervals.add(start, end)
                covered |= set(range(start, end))
                reach = next(number for number in range(40) if number not in covered)
                self.assert_covers(
                    intervals,
                    count=sum(number - 1 not in covered for number in covered),
                    reach=reach,
                    has_gap=any(number > reach for number in covered),
                )
