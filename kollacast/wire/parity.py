"""Which packets of a buffer a parity packet is made of: its run and its place in it say it.

Sparse linear coding over GF(2).  Like the parity checks of R. G. Gallager's codes (*Low-Density
Parity-Check Codes*, 1962), the sums of a run are layers: each layer has every packet of the buffer
in one sum.  Both sides draw alike how a layer is ordered, so a packet needs no list of its terms.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kollacast.wire.recipes import parity_number, parity_seq

#: Parity packets of one run at the most.
MAX_PARITY = 2048
#: Layers of one run at the most.
MAX_LAYERS = 16


@dataclass(frozen=True, slots=True)
class ParityRun:
    """``count`` parity packets of one buffer from the seq ``first`` on, of so many ``layers``.

    With a count of 0 it stands for none.
    """

    first: int
    count: int
    layers: int

    @property
    def seqs(self) -> list[int]:
        """Its seqs, which count up and go round."""
        number = parity_number(self.first)
        return [parity_seq(number + index) for index in range(self.count)]


NO_PARITY = ParityRun(0, 0, 0)


def span(run: ParityRun, packets: int) -> int:
    """How many places a layer has: those beyond the ``packets`` of the buffer are of nothing.

    There is one at least for each parity packet.  Their number is prime, so that no order has
    anything in common with losses that come at equal distances.
    """
    return _prime(max(packets, run.count, 2))


@functools.lru_cache(64)
def _prime(least: int) -> int:
    """The first prime number from this one on."""
    number = least
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number


def steps(run: ParityRun, packets: int) -> list[tuple[int, int]]:
    """The order of each layer: at which slot of the buffer it begins, and how far it goes on.

    They are two 16-bit words of SHAKE-128 of the first seq; slots go round at the span.
    """
    end = span(run, packets)
    drawn = hashlib.shake_128(run.first.to_bytes(4, "big")).digest(4 * run.layers)
    words = struct.iter_unpack(">2H", drawn)
    return [(begin % end, 1 + step % (end - 1)) for step, begin in words]


def orders(run: ParityRun, packets: int) -> Iterator[list[int]]:
    """For each layer, which slot of the buffer is at each place; from ``packets`` on it is none."""
    end = span(run, packets)
    for begin, step in steps(run, packets):
        yield [place % end for place in range(begin, begin + step * end, step)]


def places(run: ParityRun, packets: int, index: int) -> slice:
    """At which places of each layer the packets are of which this one of the run is the XOR.

    One that is named twice cancels out, as it does in the XOR.
    """
    end = span(run, packets)
    return slice(index * end // run.count, (index + 1) * end // run.count)
