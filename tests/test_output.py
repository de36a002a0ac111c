"""What is kept and digested: in order, with gaps, and on top of what was there."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from kollacast.files.digest import Digester
from kollacast.receiving.output import Output
from tests.simulation.image import MemorySink

_IMAGE = bytes(range(250))


class _Worker:
    """Does its calls, in order, when a test says so."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = deque()

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self._jobs.append((done, function, args))
        return done

    def stop(self) -> None:
        """Nothing is under way elsewhere."""

    def work(self) -> bool:
        if not self._jobs:
            return False
        done, function, args = self._jobs.popleft()
        try:
            result = function(*args)
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)
        return True


class OutputTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.sink = MemorySink()
        self.disk, self.digests = _Worker(), _Worker()
        self.failures: list[Failure] = []

    def output(self, kept: int = 0) -> Output:
        self.sink.data, self.sink.identity = _IMAGE[:kept], "ab"
        self.assertEqual(self.sink.resume("ab", 1), kept)
        digester = Digester("sha256")
        return Output(self.sink, digester, self.disk, self.digests, kept, self.failures.append)

    def work(self) -> None:
        while self.disk.work() or self.digests.work():
            pass

    def keep(self, output: Output, start: int, end: int) -> None:
        output.writer(start)([memoryview(_IMAGE[start:end])], None)

    def assert_whole(self, output: Output) -> None:
        self.work()
        digest = Deferred.fromCoroutine(output.digests())
        self.work()
        self.assertEqual(output.bytes_kept, len(_IMAGE))
        self.assertEqual(self.successResultOf(digest), {"sha256": hashlib.sha256(_IMAGE).digest()})
        self.assertEqual(self.sink.data, _IMAGE)
        self.assertIsNone(self.sink.marked)
        self.assertEqual(self.failures, [])

    def test_in_order(self) -> None:
        """Nothing is read back, and nothing marked: this is the way of most clients."""
        self.patch(self.sink, "read_back", None)
        self.patch(self.sink, "mark", None)
        output = self.output()
        for at in range(0, 250, 50):
            self.keep(output, at, at + 50)
        self.assertNoResult(output.settled())
        self.work()
        self.successResultOf(output.settled())
        self.assert_whole(output)

    def test_on_top_of_what_was_there(self) -> None:
        output = self.output(kept=100)
        self.keep(output, 100, 200)
        self.keep(output, 200, 250)
        self.assert_whole(output)

    def test_the_digest_waits_for_what_is_read_back(self) -> None:
        output = self.output(kept=250)
        digest = Deferred.fromCoroutine(output.digests())
        self.assertNoResult(digest)
        self.work()
        self.assertEqual(self.successResultOf(digest), {"sha256": hashlib.sha256(_IMAGE).digest()})

    def test_a_gap_that_closes(self) -> None:
        output = self.output()
        self.keep(output, 100, 150)
        self.keep(output, 0, 60)
        self.work()
        self.assertEqual((output.bytes_kept, self.sink.marked), (60, 60))
        self.keep(output, 150, 200)
        self.keep(output, 60, 100)
        self.work()
        self.assertEqual((output.bytes_kept, self.sink.marked), (200, None))
        self.keep(output, 200, 250)
        self.assert_whole(output)

    def test_a_part_that_begins_in_what_is_kept(self) -> None:
        output = self.output(kept=100)
        for at in range(40, 250, 70):
            self.keep(output, at, at + 70)
        self.assert_whole(output)

    def test_the_mark_comes_before_the_gap(self) -> None:
        output = self.output(kept=20)
        self.keep(output, 100, 250)
        self.disk.work()
        self.assertEqual((self.sink.marked, len(self.sink.data)), (20, 20))
        self.disk.work()
        self.assertEqual(len(self.sink.data), 250)

    def test_a_part_that_nobody_goes_on_with(self) -> None:
        """It counts as soon as there is no gap before it, and may come again."""
        output = self.output()
        self.keep(output, 100, 200)
        self.keep(output, 0, 50)
        self.work()
        self.assertEqual((output.bytes_kept, self.sink.marked), (50, 50))
        self.keep(output, 50, 150)
        self.work()
        self.assertEqual((output.bytes_kept, self.sink.marked), (200, None))
        self.keep(output, 150, 200)
        self.keep(output, 220, 250)
        self.work()
        self.assertEqual((output.bytes_kept, self.sink.marked), (200, 200))
        self.keep(output, 200, 220)
        self.assert_whole(output)

    def test_a_gap_is_marked_until_what_fills_it_is_on_disk(self) -> None:
        output = self.output()
        self.keep(output, 100, 250)
        self.work()
        self.assertEqual(self.sink.marked, 0)
        self.keep(output, 0, 100)
        self.assertEqual(self.sink.marked, 0)
        self.assert_whole(output)

    def test_what_cannot_be_read_back(self) -> None:
        def broken(at: int, size: int) -> bytes:
            raise OSError(5, "broken")

        self.patch(self.sink, "read_back", broken)
        self.output(kept=100)
        self.work()
        (failure,) = self.failures
        self.assertTrue(failure.check(OSError))
