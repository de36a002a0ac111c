"""Everybody who waits for the same thing to happen."""

from __future__ import annotations

from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

_T = TypeVar("_T")


class Observer(Generic[_T]):
    """Tells each who waits once, the next time it happens, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[_T]] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def wait(self) -> Deferred[_T]:
        """Fires when it happens; who cancels waits no more."""
        waiter: Deferred[_T] = Deferred(self._forget)
        self._waiting.append(waiter)
        return waiter

    def fire(self, value: _T) -> None:
        """It happens; who begins to wait meanwhile waits for the next time."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(value)

    def clear(self) -> None:
        """It will not happen: nobody is told anything."""
        self._waiting.clear()

    def _forget(self, waiter: Deferred[_T]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
