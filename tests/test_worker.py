"""Blocking calls in a thread of their own: in order, with their results and exceptions."""

from __future__ import annotations

import errno
import gc
import threading
import weakref
from typing import Any
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.trial import unittest

from kollacast.transport.worker import ThreadWorker, TimedWorker
from tests.simulation.inline_worker import InlineWorker


class _Thing:
    """Something that can be watched going away."""


class Threads(unittest.TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.worker = ThreadWorker(reactor, "test worker")  # type: ignore[arg-type]
        self.addCleanup(self.worker.stop)

    async def test_a_result_comes_back_in_the_reactor_s_thread(self) -> None:
        def call(one: int, other: int) -> tuple[int, str]:
            return one + other, threading.current_thread().name

        came_in: list[str] = []

        def came(value: tuple[int, str]) -> tuple[int, str]:
            came_in.append(threading.current_thread().name)
            return value

        result = self.worker.run(call, 3, 4).addCallback(came)
        self.assertEqual(await result, (7, "test worker"))
        self.assertEqual(came_in, [threading.current_thread().name])

    async def test_a_thread_that_the_kernel_refuses_is_a_call_that_fails(self) -> None:
        """And once there is one, calls are made."""

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with mock.patch.object(threading.Thread, "start", refuse):
            results = [self.worker.run(int), self.worker.run(int)]
        for result in results:
            error = self.failureResultOf(result).value
            assert isinstance(error, OSError)
            self.assertEqual(error.errno, errno.EAGAIN)
            self.assertIn("can't start new thread: raise the limit of", error.strerror)
        self.assertEqual(await self.worker.run(int), 0)

    async def test_calls_are_made_one_at_a_time_and_in_order(self) -> None:
        made: list[int] = []
        gate = threading.Event()

        def first() -> None:
            gate.wait(60)
            made.append(0)

        results: list[Deferred[None]] = [self.worker.run(first)]
        results += [self.worker.run(made.append, number) for number in range(1, 20)]
        fired: list[int] = []

        def note(_: None, number: int) -> None:
            fired.append(number)

        for number, result in enumerate(results):
            result.addCallback(note, number)
        self.assertEqual(made, [])
        gate.set()
        await gatherResults(results)
        self.assertEqual(made, list(range(20)))
        self.assertEqual(fired, list(range(20)))

    async def test_an_exception_comes_back_and_the_next_call_is_made(self) -> None:
        def full() -> None:
            raise OSError(28, "No space left on device")

        failing = self.worker.run(full)
        following = self.worker.run(int, "5")
        error: Any = await self.assertFailure(failing, OSError)
        self.assertEqual(error.errno, 28)
        self.assertEqual(await following, 5)

    async def test_not_even_an_exit_ends_the_thread(self) -> None:
        def leave() -> None:
            raise SystemExit(3)

        await self.assertFailure(self.worker.run(leave), SystemExit)
        self.assertEqual(await self.worker.run(int, "5"), 5)

    async def test_it_does_not_keep_the_process_from_ending(self) -> None:
        self.assertTrue(await self.worker.run(lambda: threading.current_thread().daemon))

    async def test_what_was_under_way_and_waited_still_ends_after_a_stop(self) -> None:
        results = [self.worker.run(int, "1"), self.worker.run(int, "2")]
        self.worker.stop()
        self.assertEqual(await gatherResults(results), [1, 2])

    async def test_the_thread_ends_with_a_stop(self) -> None:
        thread = await self.worker.run(threading.current_thread)
        self.worker.stop()
        thread.join(5)
        self.assertFalse(thread.is_alive())

    async def test_a_stop_before_any_call_starts_no_thread(self) -> None:
        before = threading.active_count()
        ThreadWorker(reactor, "never used").stop()  # type: ignore[arg-type]
        self.assertEqual(threading.active_count(), before)

    async def test_a_call_after_the_stop_is_not_made(self) -> None:
        made: list[int] = []
        thread = await self.worker.run(threading.current_thread)
        self.worker.stop()
        result = self.worker.run(made.append, 1)
        thread.join(5)
        self.assertEqual(made, [])
        self.assertFalse(result.called)

    async def test_an_idle_thread_keeps_nothing_alive(self) -> None:
        """Neither an argument nor a result: each may be a whole buffer."""

        async def passed_through(function: Any) -> weakref.ref[_Thing]:
            thing = _Thing()
            watch = weakref.ref(thing)
            try:
                await self.worker.run(function, thing)
            except RuntimeError:
                pass
            return watch

        def fail(thing: _Thing) -> None:
            raise RuntimeError(str(thing))

        for function in (lambda thing: thing, lambda thing: None, fail):
            watch = await passed_through(function)
            # The thread lets go just after it has handed the result over.
            while watch() is not None:
                gc.collect()
                await deferLater(reactor, 0.001)


class Inline(unittest.SynchronousTestCase):
    """What takes a thread's place in tests behaves the same, at once."""

    def test_results_and_exceptions(self) -> None:
        worker = InlineWorker()
        self.assertEqual(self.successResultOf(worker.run(int, "5")), 5)
        self.failureResultOf(worker.run(int, "x"), ValueError)
        worker.stop()


class Timed(unittest.SynchronousTestCase):
    """For how long there has been work to do."""

    def test_calls_that_overlap_count_once(self) -> None:
        clock = Clock()
        waiting: list[Deferred[Any]] = []

        class Slow:
            def run(self, function: Any, *args: Any) -> Deferred[Any]:
                waiting.append(Deferred())
                return waiting[-1]

            def stop(self) -> None:
                waiting.append(Deferred())

        worker = TimedWorker(Slow(), clock.seconds)
        clock.advance(5)
        self.assertEqual(worker.busy_s, 0)
        results = [worker.run(int), worker.run(int)]
        clock.advance(2)
        waiting[0].callback(3)
        clock.advance(1)
        self.assertEqual(worker.busy_s, 3)
        waiting[1].errback(ValueError())
        clock.advance(10)
        self.assertEqual(self.successResultOf(results[0]), 3)
        self.failureResultOf(results[1], ValueError)
        self.assertEqual(worker.busy_s, 3)
        worker.run(int)
        clock.advance(1)
        self.assertEqual(worker.busy_s, 4)
        worker.stop()
        self.assertEqual(len(waiting), 4)
