"""So much at once, and so much a second."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from kollacast.events.bucket import Bucket


class BucketTests(SynchronousTestCase):
    def taken(self, bucket: Bucket, now: float, tries: int) -> int:
        return sum([bucket.take(now) for _ in range(tries)])

    def test_at_once_and_a_second(self) -> None:
        bucket = Bucket(10, 5.0)
        self.assertEqual(self.taken(bucket, 100.0, 10), 10)
        self.assertFalse(bucket.has(100.0))
        self.assertEqual(sum([bucket.take(100.0 + n / 10) for n in range(1, 101)]), 50)

    def test_it_holds_no_more_than_its_depth(self) -> None:
        bucket = Bucket(10, 5.0)
        bucket.take(0.0)
        self.assertFalse(bucket.is_full(0.0))
        self.assertTrue(bucket.is_full(0.2))
        self.assertEqual(self.taken(bucket, 1e6, 100), 10)

    def test_who_spends_and_spends_owes_no_more_than_a_second(self) -> None:
        bucket = Bucket(10, 5.0)
        for _ in range(1000):
            bucket.spend(0.0)
        self.assertFalse(bucket.has(1.1))
        self.assertTrue(bucket.has(1.3))

    def test_what_was_not_needed(self) -> None:
        bucket = Bucket(2, 0.0)
        self.taken(bucket, 0.0, 2)
        bucket.give_back()
        self.assertTrue(bucket.take(0.0))
        for _ in range(9):
            bucket.give_back()
        self.assertEqual(self.taken(bucket, 0.0, 9), 2)
