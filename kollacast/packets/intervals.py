"""Which parts of a line of integers are covered, such as the bytes of an image that are here."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Intervals:
    """A set of integers from 0 on, held as intervals ``[start, end)`` that do not touch."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        """How many intervals there are."""
        return len(self._starts)

    def add(self, start: int, end: int) -> None:
        """Cover ``start`` up to ``end``, which is not covered itself; nothing where they meet."""
        if start >= end:
            return
        # Those that overlap or touch the new one become part of it.
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    @property
    def reach(self) -> int:
        """How far from 0 on there is no gap."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    @property
    def has_gap(self) -> bool:
        """Whether something is covered behind :attr:`reach`."""
        return bool(self._ends) and self._ends[-1] > self.reach
