"""What one host loses, and what it can solve for: draws of its own, from a seeded generator."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from random import Random

#: Losses beyond the expected number that are drawn at once.
_MORE = 8
#: Short of the full rank by so many, a random row is new but in one of 16 million cases.
_CERTAIN_ROWS = 24


class Losses:
    """Draws for one host; `share` is from 0 up to, and without, 1."""

    def __init__(self, share: float, seed: str) -> None:
        self._share = share
        self._random = Random(seed)
        self._log_kept = math.log1p(-share)

    def has_lost(self, number: int) -> bool:
        """Whether this datagram of all coded repairs is lost; asked once for each."""
        return self._share > 0 and self._random.random() < self._share

    def left_of(self, numbers: Sequence[int]) -> int:
        """The same for many: how many of them are not lost."""
        return len(numbers) - len(self.of(0, len(numbers)))

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

    def unsolved(self, unknowns: int, rows: int, packets: int, degree: int) -> int:
        """How many of so many unknown packets have to come before all are solved for.

        There are so many `rows`, each the XOR of `degree` packets drawn of `packets`. Without
        their payloads: the rank of a random matrix is drawn, exactly where ones and zeros are alike
        likely; in a sparse one columns without any one are what is left over beside.
        """
        if not rows:
            return unknowns
        # That a packet is drawn an odd number of times.
        density = (1 - (1 - 2 / packets) ** degree) / 2 if packets > 1 else 1.0
        untouched = (1 - density) ** rows
        # Rows that touch all but no column are in the rank of a dense matrix, too.
        spare = max(untouched - 0.5**rows, 0.0)
        draw = self._random.random
        empty = sum(draw() < spare for _ in range(unknowns)) if spare * unknowns > 1e-9 else 0
        lacking = unknowns - empty
        # The first rows are independent all but certainly.
        rank = max(min(rows, lacking) - _CERTAIN_ROWS, 0)
        for _ in range(rows - rank):
            if rank < lacking and draw() >= 0.5 ** (lacking - rank):
                rank += 1
        return empty + lacking - rank

    def some_of(self, seqs: set[int], count: int) -> set[int]:
        """So many of these packets, whichever."""
        return set(self._random.sample(sorted(seqs), count)) if count else set()
