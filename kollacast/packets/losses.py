"""What somebody lacks of a buffer as two numbers: how many packets, and in how many runs."""

from __future__ import annotations

from collections.abc import Sequence
from operator import sub
from typing import NamedTuple


class Lost(NamedTuple):
    """``packets`` that are lacking, in so many ``runs`` of packets that follow on each other."""

    packets: int
    runs: int

    def plus(self, other: Lost) -> Lost:
        """Of two buffers."""
        return Lost(self.packets + other.packets, self.runs + other.runs)


NOTHING_LOST = Lost(0, 0)


def lost_of(seqs: Sequence[int]) -> Lost:
    """Of these packets, which ascend."""
    # In a run, seqs and their places count up alike.
    return Lost(len(seqs), len(set(map(sub, seqs, range(len(seqs))))))
