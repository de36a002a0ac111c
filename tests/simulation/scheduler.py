"""What happens next, and when: tasks on one clock, in order or as a seed picks them.

Everything that can happen (bytes that arrive, a datagram that lands, a socket that takes more, a
thread that ends a call) is a :class:`Task`, and one turn of a :class:`Scheduler` runs one of them.
An orderly one runs them in the order in which they came up; one with a seed picks any of them, so
that a seed names one interleaving and gives it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.task import Clock

#: Turns after which what does not come to rest is taken to be stuck.
_TURNS = 2_000_000


class Task:
    """Something that can happen, once it has been woken."""

    __slots__ = ("_scheduler", "happen", "woken")

    def __init__(self, scheduler: Scheduler, happen: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self.happen = happen
        self.woken = False

    def wake(self) -> None:
        if not self.woken:
            self.woken = True
            self._scheduler.ready.append(self)


class Scheduler:
    """Runs tasks and the clock's calls; orderly without a ``seed``.

    With one, a turn takes up to ``tick_s``.
    """

    def __init__(self, seed: int | None, tick_s: float) -> None:
        self.clock = Clock()
        self.random = Random(seed or 0)  # an orderly network, too, is the same every time
        self.orderly = seed is None
        self.ready: deque[Task] = deque()
        self._tick_s = tick_s

    def run(self) -> None:
        """Let happen what needs no waiting."""
        for _ in range(_TURNS):
            if not self.turn():
                return
        raise AssertionError("the network does not come to rest")

    def settle(self) -> None:
        """Let happen what needs next to no waiting: a timer of some milliseconds."""
        self.run_for(0.15)

    def run_for(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        end = self.clock.seconds() + seconds
        self.run()
        while self.clock.calls and self.clock.calls[0].getTime() <= end:
            self._skip_to(self.clock.calls[0].getTime())
            self.run()
        self._skip_to(end)

    def run_until(self, condition: Callable[[], Any], limit_s: float = 600.0) -> None:
        """Stop right after the turn that makes ``condition()`` true."""
        end = self.clock.seconds() + limit_s
        for _ in range(_TURNS):
            if condition():
                return
            if self.turn():
                continue
            calls = self.clock.calls
            if not calls or calls[0].getTime() > end:
                break
            self._skip_to(calls[0].getTime())
        raise AssertionError(f"not within {limit_s:g} s, or never")

    def _skip_to(self, time: float) -> None:
        self.clock.rightNow = max(time, self.clock.rightNow)
        self.clock.advance(0)

    def turn(self) -> bool:
        """Let one thing happen; False when nothing can without waiting."""
        clock = self.clock
        if clock.calls and clock.calls[0].getTime() <= clock.rightNow:
            clock.advance(0)
            return True
        if not self.ready:
            return False
        if not self.orderly:
            clock.advance(self.random.random() * self._tick_s)
            self.ready.rotate(self.random.randrange(len(self.ready)))
        task = self.ready.popleft()
        task.woken = False
        task.happen()
        return True

    def happens(self, share: float) -> bool:
        """Whether what has this probability happens now."""
        return share > 0 and self.random.random() < share
