"""How a run went so far: a bounded number of points in time, and how fast it is now."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kollacast.server.snapshot import Snapshot

#: Points that are kept; beyond them, every second one is dropped, and from then on half as many.
_MOST_POINTS = 600
#: Seconds over which the rate of now is taken.
_NOW_S = 3.0


@dataclass(frozen=True)
class Point:
    """Sums up to one moment, ``seconds`` after the start."""

    seconds: float
    bytes_done: int  #: of the image
    packets_sent: int  #: by multicast, to each host on its own
    packets_lost: int  #: of these
    packets_coded: int  #: repairs by multicast
    packets_resent: int  #: repairs by TCP

    def row(self) -> list[float]:
        """For JSON."""
        sums = (self.bytes_done, self.packets_sent, self.packets_lost)
        return [round(self.seconds, 2), *sums, self.packets_coded, self.packets_resent]


#: What stands in a row.
FIELDS = tuple(Point.__dataclass_fields__)


def point_of(now: Snapshot) -> Point:
    """The sums of one moment."""
    accounts = [entry.account for entry in now.clients]
    return Point(
        now.seconds,
        now.bytes_done,
        sum([account.packets_sent for account in accounts]),
        sum([account.packets_lost for account in accounts]),
        now.packets_coded,
        now.packets_resent,
    )


class History:
    """Points at a steady pace, fewer and fewer of the past."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.points: list[Point] = []
        self._recent: deque[Point] = deque()
        self._stride = 1
        self._skipped = 0

    def add(self, point: Point) -> None:
        """Take down what is so now; a run that begins anew has no history."""
        if self._recent and point.seconds < self._recent[-1].seconds:
            self._begin()
        if self._recent and point == self._recent[-1]:
            return
        self._recent.append(point)
        while len(self._recent) > 2 and point.seconds - self._recent[1].seconds >= _NOW_S:
            self._recent.popleft()
        self._skipped += 1
        if self._skipped < self._stride and self.points:
            return
        self._skipped = 0
        self.points.append(point)
        if len(self.points) > _MOST_POINTS:
            del self.points[1::2]
            self._stride *= 2

    def rate(self) -> float:
        """Bytes of the image a second, over the last few; 0 before anything is sent."""
        if len(self._recent) < 2:
            return 0.0
        first, last = self._recent[0], self._recent[-1]
        seconds = last.seconds - first.seconds
        return (last.bytes_done - first.bytes_done) / seconds if seconds > 0 else 0.0

    def rows(self) -> list[list[float]]:
        """All that is kept, and the newest."""
        points = self.points
        if self._recent and points[-1] is not self._recent[-1]:
            points = [*points, self._recent[-1]]
        return [point.row() for point in points]
