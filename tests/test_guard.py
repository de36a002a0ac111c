"""What is raised where nobody listens is told to the guard's owner."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from kollacast.events.guard import Guard


class GuardTests(SynchronousTestCase):
    """Each kind of thing that a guard starts, with an error in it and without."""

    def setUp(self) -> None:
        self.failures: list[Failure] = []
        self.guard = Guard(self.failures.append)

    def assert_told(self) -> None:
        [failure] = self.failures
        failure.trap(ZeroDivisionError)

    def test_a_coroutine(self) -> None:
        gate: Deferred[None] = Deferred()

        async def divide(by: int) -> float:
            await gate
            return 1 / by

        right, wrong = self.guard.run(divide(2)), self.guard.run(divide(0))
        gate.callback(None)
        self.assertEqual(self.successResultOf(right), 0.5)
        self.assertIsNone(self.successResultOf(wrong))
        self.assert_told()

    def test_a_callback(self) -> None:
        divide = self.guard.wrap(lambda number, *, by: number / by)
        divide(1, by=2)
        self.assertEqual(self.failures, [])
        divide(1, by=0)
        self.assert_told()

    def test_a_timer(self) -> None:
        clock = Clock()
        called: list[float] = []
        self.guard.call_later(clock, 1.0, called.append, 2.0)
        self.guard.call_later(clock, 1.0, lambda: 1 / 0)
        self.guard.call_later(clock, 1.0, called.append, 3.0).cancel()
        clock.advance(0.5)
        self.assertEqual((called, self.failures), ([], []))
        clock.advance(0.5)
        self.assertEqual(called, [2.0])
        self.assert_told()
