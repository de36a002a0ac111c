"""Solves for packets of which only sums are known: Gaussian elimination over GF(2).

A row is one whole number: the payload of a sum in its low bits, and above them a bit for each
unknown packet in it.  So one XOR of two numbers adds both, and the highest bit is the pivot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

#: Additions of rows between two yields.
_SLICE = 8192


class System:
    """Sums over ``unknowns``, which are named by whatever they are, of ``bits`` bits each."""

    def __init__(self, unknowns: Sequence[int], bits: int) -> None:
        self.unknowns = unknowns
        self._bits = bits
        self._columns = {name: column for column, name in enumerate(unknowns)}
        self._pivots: dict[int, int] = {}
        # Columns that are in no row any more: solved, or come.
        self._gone: set[int] = set()

    @property
    def has_rows(self) -> bool:
        """Whether there is a sum of unknown packets."""
        return bool(self._pivots)

    @property
    def is_full(self) -> bool:
        """Whether more sums can tell nothing."""
        return len(self._pivots) + len(self._gone) >= len(self.unknowns)

    def unit(self, name: int) -> int:
        """The row of one unknown alone, to be added up with others and with payloads."""
        return 1 << (self._bits + self._columns[name])

    def add(self, row: int) -> int:
        """A sum is known.  How many rows were added up for it."""
        bits, pivots = self._bits, self._pivots
        work = 1
        while (top := row.bit_length() - 1) >= bits:
            pivot = pivots.get(top - bits)
            if pivot is None:
                pivots[top - bits] = row
                break
            row ^= pivot
            work += 1
        return work

    def know(self, values: Mapping[int, int]) -> Iterator[None]:
        """These unknowns have come: put them in."""
        known = {
            column: value
            for name, value in values.items()
            if (column := self._columns[name]) not in self._gone
        }
        self._gone.update(known)
        mask = sum(1 << column for column in known)
        anew = []
        work = 0
        for pivot, row in list(self._pivots.items()):
            for column in _bits_of(row >> self._bits & mask):
                row ^= 1 << (self._bits + column) | known[column]
                work += 1
            self._pivots[pivot] = row
            if pivot in known:
                # Another of its unknowns has to be the pivot, if there is one.
                anew.append(self._pivots.pop(pivot))
            if work > _SLICE:
                work = 0
                yield
        for row in anew:
            self.add(row)

    def reduce(self) -> Iterator[None]:
        """Put all pivots into all rows: what is determined then stands alone in its row."""
        bits, pivots = self._bits, self._pivots
        reduced = 0
        work = 0
        for pivot in sorted(pivots):
            row = pivots[pivot]
            for column in _bits_of(row >> bits & reduced):
                row ^= pivots[column]
                work += 1
            pivots[pivot] = row
            reduced |= 1 << pivot
            if work > _SLICE:
                work = 0
                yield

    def take_solved(self) -> list[tuple[int, int]]:
        """What :meth:`reduce` has determined, each once: its name and its payload."""
        bits = self._bits
        solved = []
        for pivot, row in list(self._pivots.items()):
            payload = row ^ 1 << (bits + pivot)
            if payload.bit_length() <= bits:
                solved.append((self.unknowns[pivot], payload))
                del self._pivots[pivot]
                self._gone.add(pivot)
        return solved

    def free(self) -> list[int]:
        """The fewest unknowns with which all others are determined."""
        return [
            name
            for column, name in enumerate(self.unknowns)
            if column not in self._pivots and column not in self._gone
        ]


def _bits_of(mask: int) -> list[int]:
    """The places of the ones in ``mask``."""
    found = []
    while mask:
        top = mask.bit_length() - 1
        found.append(top)
        mask ^= 1 << top
    return found
