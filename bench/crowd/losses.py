"""What one host loses, and what it can solve for: draws of its own, from a seeded generator."""

from __future__ import annotations

import functools
import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from random import Random

import numpy

#: Losses beyond the expected number that are drawn at once.
_MORE = 8
#: Short of the full rank by so many, a random row is new but in one of 16 million cases.
_CERTAIN_ROWS = 24
#: What is to be expected less often than this is not drawn.
_NEVER = 1e-9


class Losses:
    """Draws for one host; `share` is from 0 up to, and without, 1."""

    def __init__(self, share: float, seed: str) -> None:
        self._share = share
        self._random = Random(seed)
        self._numpy = numpy.random.default_rng(self._random.getrandbits(64))
        self._log_kept = math.log1p(-share)

    def has_lost(self, number: int) -> bool:
        """Whether this datagram of all coded repairs is lost; asked once for each."""
        return self._share > 0 and self._random.random() < self._share

    def left_of(self, numbers: Sequence[int]) -> int:
        """The same for many: how many of them are not lost."""
        return len(numbers) - self.how_many(0, len(numbers))

    def how_many(self, first: int, count: int) -> int:
        """How many packets are lost of `count`, whose seqs count up from `first`."""
        return int(self._numpy.binomial(count, self._share)) if self._share else 0

    def in_runs(self, first: int, count: int, lost: int) -> int:
        """In how many runs of packets that follow on each other those are, in the same place."""
        # Each begins behind one of the packets that are kept, or before them all.
        return int(self._numpy.hypergeometric(count - lost + 1, lost - 1, lost)) if lost else 0

    def which(self, first: int, count: int, lost: int) -> set[int]:
        """So many of these packets, each as likely as any."""
        return set(self._random.sample(range(first, first + count), lost))

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

    def unsolved(self, unknowns: int, rows: int, count: int, layers: int) -> int:
        """How many of so many unknown packets have to come before all are solved for.

        So many `rows` have come, of a run of `count` parity packets with so many `layers`. Without
        their payloads: the rank of a random matrix is drawn, exactly where ones and zeros are alike
        likely; in a sparse one, rows and columns without any one are left over beside.
        """
        if not rows:
            return unknowns
        # That a row has each of the unknowns an even number of times, in all layers.
        even = ((1 + (1 - 2 / count) ** layers) / 2) ** unknowns
        # What is in the rank of a dense matrix, too, is not taken off twice.
        touching = rows - self._hits(rows, even - 0.5**unknowns)
        missed = self._hits(unknowns, _missed(rows, count, layers) - 0.5**rows)
        lacking = unknowns - missed
        # The first rows are independent all but certainly.
        rank = max(min(touching, lacking) - _CERTAIN_ROWS, 0)
        for _ in range(touching - rank):
            if rank == lacking:
                break
            if self._random.random() >= 0.5 ** (lacking - rank):
                rank += 1
        return missed + lacking - rank

    def _hits(self, tries: int, share: float) -> int:
        """How many of so many tries succeed, each with this probability."""
        if tries * share < _NEVER:
            return 0
        draw = self._random.random
        return sum(draw() < share for _ in range(tries))

    def some_of(self, seqs: set[int], count: int) -> set[int]:
        """So many of these packets, whichever."""
        return set(self._random.sample(sorted(seqs), count)) if count else set()


@functools.lru_cache(1024)
def _missed(rows: int, count: int, layers: int) -> float:
    """That none of so many rows has a packet, which is in one of `count` in each layer."""
    odd = [1.0]  # how likely it is that so many of these rows have it an odd number of times
    for _ in range(layers):
        after = [0.0] * (len(odd) + 1)
        for number, share in enumerate(odd):
            after[number] += share * (count - rows) / count
            after[number - 1] += share * number / count
            after[number + 1] += share * (rows - number) / count
        odd = after
    return odd[0]
