"""The zipper: a chain of parents and children that carries a barrier.

Every member waits for its parent, lets its child go, does its own part,
waits for its child and lets its parent go.  A phase so runs down the chain
and back up again, and its first member knows that all are through.  At the
ends of the chain, the calls that would reach beyond are no-ops.

Several phases may be under way at once: a release is a token, and tokens are
taken in the order in which they were given.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, DeferredQueue, succeed

_T = TypeVar("_T")


class Zipper(Generic[_T]):
    """One member's links; what a parent releases carries a value down."""

    def __init__(self) -> None:
        self._parent: Zipper[_T] | None = None
        self._child: Zipper[_T] | None = None
        self._from_parent: DeferredQueue[_T] = DeferredQueue()
        self._from_child: DeferredQueue[None] = DeferredQueue()
        # For each phase that has gone down and is not waited for: whether a child took it.
        self._taken: deque[bool] = deque()

    def attach(self, child: Zipper[_T]) -> None:
        """Hang ``child`` below this member, which must have none."""
        assert self._child is None
        assert child._parent is None
        self._child = child
        child._parent = self

    def release_child(self, value: _T) -> None:
        """Let the child begin a phase; no-op at the chain's end."""
        self._taken.append(self._child is not None)
        if self._child is not None:
            self._child._from_parent.put(value)

    def wait_child(self) -> Deferred[None]:
        """Fires when the child has ended a phase; at once where it had no child to take it."""
        taken = self._taken.popleft() if self._taken else self._child is not None
        return self._from_child.get() if taken else succeed(None)

    def wait_parent(self) -> Deferred[_T]:
        """Fires with the parent's value when the parent begins a phase."""
        return self._from_parent.get()

    def release_parent(self) -> None:
        """Tell the parent that this member's phase has ended; no-op at the root."""
        if self._parent is not None:
            self._parent._from_child.put(None)
