"""What the rows of a run of parity add up to; with NumPy in a quarter of the time.

To load that takes a tenth of a second, so it is for who is going to need it: a server of many.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import chain
from operator import xor
from typing import Any

from kollacast.repair.scheme import Slices
from kollacast.wire.parity import ParityRun, orders, places, span, steps

#: Packets that are read, and packets that are added up, in one go: some milliseconds.
READ_SLICE = 1024
SUM_SLICE = 16384
#: Packets that NumPy adds up in one go.
_FAST_SLICE = 16384

# None where it is not loaded.
_numpy: Any = None


def load_numpy() -> None:
    """Add up with NumPy from now on, if it is installed."""
    global _numpy
    try:
        _numpy = importlib.import_module("numpy")
    except ImportError:
        _numpy = None


class Rows:
    """What the rows add up to, of whole numbers."""

    def __init__(self, run: ParityRun, packets: int) -> None:
        self._run = run
        self._packets = packets
        self._layers: list[list[int]] = []
        self.work = run.layers * span(run, packets) // run.count  #: additions for one of them

    def arrange(self, values: Sequence[int]) -> Iterator[None]:
        """Of these values of the buffer's packets."""
        padded = [*values, *[0] * (span(self._run, self._packets) - self._packets)]
        for order in orders(self._run, self._packets):
            self._layers.append(list(map(padded.__getitem__, order)))
            yield

    def total(self, index: int) -> int:
        part = places(self._run, self._packets, index)
        return reduce(xor, chain.from_iterable(layer[part] for layer in self._layers))


def sums(run: ParityRun, payload: memoryview, capacity: int) -> Slices[list[bytes]]:
    """What each row of ``run`` adds up to, of packets of ``capacity`` bytes side by side."""
    if _numpy is None:
        return _plain_sums(run, payload, capacity)
    return _fast_sums(_numpy, run, payload, capacity)


def _plain_sums(run: ParityRun, payload: memoryview, capacity: int) -> Slices[list[bytes]]:
    values: list[int] = []
    piece = READ_SLICE * capacity
    for begin in range(0, len(payload), piece):
        ends = range(begin, min(begin + piece, len(payload)), capacity)
        values += [int.from_bytes(payload[at : at + capacity], "little") for at in ends]
        yield
    rows = Rows(run, len(values))
    yield from rows.arrange(values)
    made: list[bytes] = []
    added = 0
    for index in range(run.count):
        made.append(rows.total(index).to_bytes(capacity, "little"))
        added += rows.work
        if added >= SUM_SLICE:
            added = 0
            yield
    return made


def _fast_sums(
    numpy: Any, run: ParityRun, payload: memoryview, capacity: int
) -> Slices[list[bytes]]:
    packets = len(payload) // capacity
    # Words as long as they fit into a packet; capacities are multiples of 4.
    word = numpy.uint32 if capacity % 8 else numpy.uint64
    matrix = numpy.frombuffer(payload, dtype=word).reshape(packets, -1)
    end = span(run, packets)
    layers = numpy.array([(b + s * numpy.arange(end)) % end for b, s in steps(run, packets)])
    yield
    # The same memory for each row: to get some anew takes longer than to add it up.
    terms = numpy.empty((run.layers * (end // run.count + 1), matrix.shape[1]), dtype=word)
    made: list[bytes] = []
    added = 0
    for index in range(run.count):
        named = layers[:, places(run, packets, index)].ravel()
        if named.max() >= packets:
            named = named[named < packets]
        some = terms[: len(named)]
        matrix.take(named, axis=0, out=some, mode="clip")
        made.append(numpy.bitwise_xor.reduce(some, axis=0).tobytes())
        added += len(named)
        if added >= _FAST_SLICE:
            added = 0
            yield
    return made
