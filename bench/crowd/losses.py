"""What one host loses: each packet by a draw of its own, from a seeded generator."""

from __future__ import annotations

import math
import sys
from random import Random


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
        draw, log_kept, end = self._random.random, self._log_kept, first + count
        found: set[int] = set()
        seq = first
        while True:
            # From one loss to the next it is a geometric draw: one number a loss, not a packet.
            seq += int(math.log(1.0 - draw()) / log_kept)
            if seq >= end:
                return found
            found.add(seq)
            seq += 1
