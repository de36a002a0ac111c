"""A worker thread that runs when it is its turn, as all else in the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.simulation.links import Node
from tests.simulation.scheduler import Task

_T = TypeVar("_T")


class MemoryThread:
    """A worker whose calls, and then their results, come when it is their turn."""

    def __init__(self, host: Node) -> None:
        self._host = host
        self._jobs: deque[Callable[[], Callable[[], None]]] = deque()
        self._results: deque[Callable[[], None]] = deque()
        self._works = Task(host.network, self._work)
        self._delivers = Task(host.network, self._deliver)
        self._stopped = False
        #: A test may hold the thread up in its next call.
        self.held = False

    def run(self, function: Callable[..., _T], *args: Any) -> Deferred[_T]:
        done: Deferred[_T] = Deferred()

        def work() -> Callable[[], None]:
            try:
                result = function(*args)
            except Exception:
                failure = Failure()
                return lambda: done.errback(failure)
            return lambda: done.callback(result)

        if not self._stopped:
            self._jobs.append(work)
            self._works.wake()
        return done

    def stop(self) -> None:
        self._stopped = True

    def release(self) -> None:
        """It is held up no more."""
        self.held = False
        self._works.wake()

    def _work(self) -> None:
        if self._jobs and not self.held and not self._host.is_gone:
            self._results.append(self._jobs.popleft()())
            self._delivers.wake()
            self._works.wake()

    def _deliver(self) -> None:
        if self._results and not self._host.is_gone:
            self._results.popleft()()
            self._delivers.wake()
