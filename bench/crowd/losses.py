"""What one host loses: each packet by a draw of its own, from a seeded generator."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from itertools import accumulate
from random import Random

#: Losses beyond the expected number that are drawn at once.
_MORE = 8


class Losses:
    """Draws for one host; `share` is from 0 up to, and without, 1."""

    def __init__(self, share: float, seed: str) -> None:
        self._share = share
        self._random = Random(seed)
        self._log_kept = math.log1p(-share)

    def has_lost(self, number: int) -> bool:
        """Whether this datagram of all coded repairs is lost; asked once for each."""
        return self._share > 0 and self._random.random() < self._share

    def until_lost(self) -> int:
        """How many control packets come before the next one that does not."""
        if not self._share:
            return sys.maxsize
        return int(math.log(1.0 - self._random.random()) / self._log_kept)

    def of(self, first: int, count: int) -> set[int]:
        """Which packets are lost of `count`, whose seqs count up from `first`."""
        if not self._share:
            return set()
        draw, log, log_kept, end = self._random.random, math.log, self._log_kept, first + count
        found: set[int] = set()
        last = first - 1
        while last < end:
            # From one loss to the next it is a geometric draw: one number a loss, not a packet.
            some = range(int((end - last) * self._share) + _MORE)
            steps = [1 + int(log(1.0 - draw()) / log_kept) for _ in some]
            steps[0] += last
            seqs = list(accumulate(steps))
            found.update(seqs if seqs[-1] < end else seqs[: bisect_left(seqs, end)])
            last = seqs[-1]
        return found
