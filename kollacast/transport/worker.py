"""One thread that does blocking calls in order, so that the reactor never does.

The thread is a daemon: a read from a pipe that never delivers, or a write to
one that nobody reads, does not keep the process from ending.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from kollacast.transport.threads import start_thread

_T = TypeVar("_T")
_Job = tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]


class Worker(Protocol):
    """Calls functions elsewhere, one at a time and in order."""

    def run(self, function: Callable[..., _T], *args: Any) -> Deferred[_T]:
        """Fires with the result of ``function(*args)``, or with its exception; never raises.

        With OSError, too, where the call cannot be made.
        """

    def stop(self) -> None:
        """Take no more calls; the one under way may still end."""


#: Makes a worker of that name, which tells the reactor of what it has done.
MakeWorker = Callable[[IReactorFromThreads, str], Worker]


class ThreadWorker:
    """A :class:`Worker` with a thread of its own, started at the first call."""

    def __init__(self, reactor: IReactorFromThreads, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = False

    def run(self, function: Callable[..., _T], *args: Any) -> Deferred[_T]:
        done: Deferred[_T] = Deferred()
        if not self._started:
            try:
                start_thread(self._loop, self._name)
            except OSError:
                # As a call that fails: who counts on an answer would wait for ever.
                done.errback(Failure())
                return done
            self._started = True
        self._jobs.put((done, function, args))
        return done

    def stop(self) -> None:
        self._jobs.put(None)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._call(*job)
            # Nothing may keep a buffer alive while the thread waits.
            del job

    def _call(
        self, done: Deferred[Any], function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        try:
            result = function(*args)
        except BaseException:
            self._reactor.callFromThread(done.errback, Failure())
        else:
            self._reactor.callFromThread(done.callback, result)


class TimedWorker:
    """Another :class:`Worker`, and for how many seconds of ``seconds()`` it has had work to do."""

    def __init__(self, worker: Worker, seconds: Callable[[], float]) -> None:
        self._worker = worker
        self._seconds = seconds
        self._under_way = 0
        self._began_at = 0.0
        self._busy_s = 0.0

    @property
    def busy_s(self) -> float:
        """With what is under way."""
        since = self._seconds() - self._began_at if self._under_way else 0.0
        return self._busy_s + since

    def run(self, function: Callable[..., _T], *args: Any) -> Deferred[_T]:
        if not self._under_way:
            self._began_at = self._seconds()
        self._under_way += 1
        return self._worker.run(function, *args).addBoth(self._done)

    def stop(self) -> None:
        self._worker.stop()

    def _done(self, result: _T) -> _T:
        self._under_way -= 1
        if not self._under_way:
            self._busy_s += self._seconds() - self._began_at
        return result
