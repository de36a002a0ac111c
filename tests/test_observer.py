"""Everybody who waits for one thing is told of it once."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial import unittest

from kollacast.events.observer import Observer


class Waiting(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.observer: Observer[int] = Observer()
        self.told: list[str] = []

    def wait(self, name: str) -> Deferred[None]:
        return self.observer.wait().addCallback(lambda value: self.told.append(f"{name}{value}"))

    def test_all_are_told_in_the_order_in_which_they_came(self) -> None:
        for name in "abc":
            self.wait(name)
        self.assertEqual((len(self.observer), self.told), (3, []))
        self.observer.fire(1)
        self.assertEqual((len(self.observer), self.told), (0, ["a1", "b1", "c1"]))

    def test_who_was_told_is_not_told_again(self) -> None:
        self.wait("a")
        self.observer.fire(1)
        self.wait("b")
        self.observer.fire(2)
        self.assertEqual(self.told, ["a1", "b2"])

    def test_who_begins_to_wait_meanwhile_waits_for_the_next_time(self) -> None:
        self.wait("a").addCallback(lambda _: self.wait("again"))
        self.observer.fire(1)
        self.assertEqual((len(self.observer), self.told), (1, ["a1"]))
        self.observer.fire(2)
        self.assertEqual(self.told, ["a1", "again2"])

    def test_who_cancels_waits_no_more_and_the_others_do(self) -> None:
        first, second = self.observer.wait(), self.wait("b")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(len(self.observer), 1)
        self.observer.fire(1)
        self.successResultOf(second)

    def test_one_that_is_told_may_cancel_another(self) -> None:
        """Which has been told by then, or is told no more."""
        second: Deferred[int]
        self.wait("a").addCallback(lambda _: second.cancel())
        second = self.observer.wait()
        self.wait("c")
        self.observer.fire(1)
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.told, ["a1", "c1"])

    def test_where_it_will_not_happen_nobody_is_told(self) -> None:
        waiter = self.observer.wait()
        self.observer.clear()
        self.observer.fire(1)
        self.assertNoResult(waiter)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        self.assertEqual(len(self.observer), 0)
