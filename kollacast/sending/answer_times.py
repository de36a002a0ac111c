"""How long clients take to ask for what they lack, and so how long it is worth to wait for them.

A smoothed time and its deviation, as RFC 6298 has it for TCP, of the time until most have asked.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Seconds to wait where nothing is known yet, and the bounds of it.
_FIRST_S = 0.1
_LEAST_S = 0.02
MOST_S = 1.0
#: Of the requests, so many have to have come: one slow host is not waited for.
_MOST = 0.875
#: RFC 6298: how fast the time and its deviation follow, and how many deviations count.
_ALPHA = 0.125
_BETA = 0.25
_DEVIATIONS = 4


class AnswerTimes:
    """The times of one kind of answer."""

    def __init__(self) -> None:
        self._smoothed_s: float | None = None
        self._deviation_s = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds within which most clients ask."""
        if self._smoothed_s is None:
            return _FIRST_S
        wait_s = self._smoothed_s + _DEVIATIONS * self._deviation_s
        return min(max(wait_s, _LEAST_S), MOST_S)

    def measured(self, times_s: Sequence[float]) -> None:
        """After so many seconds each client has asked that asked at all, in this order."""
        if not times_s:
            return
        # Rounded up: of a few, all count.
        most_s = min(times_s[-int(len(times_s) * (1 - _MOST)) - 1], MOST_S)
        if self._smoothed_s is None:
            self._smoothed_s, self._deviation_s = most_s, most_s / 2
            return
        strays_s = abs(self._smoothed_s - most_s)
        self._deviation_s += _BETA * (strays_s - self._deviation_s)
        self._smoothed_s += _ALPHA * (most_s - self._smoothed_s)
