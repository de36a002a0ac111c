"""Parity packets, each the XOR of some packets of a buffer: as many as the worst client lacks.

They mend whatever is lost: a client that lacks 70 packets needs little more than any 70 of them.
So a thousand clients that each lose 1 % of a buffer on their own, which together lack nearly all
of it, are mended with 1.5 % of it.  The code is linear, over GF(2) and sparse: a packet is in just
so many rows that it is certain enough that rows and what a client lacks touch one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from kollacast.repair.elimination import System
from kollacast.repair.rows import READ_SLICE, SUM_SLICE, Rows, sums
from kollacast.repair.scheme import WORTH, Demand, Held, Made, Mended, Slices
from kollacast.wire.parity import ParityRun
from kollacast.wire.recipes import parity_seq

#: Packets beyond those that a client lacks, so that nearly all clients can solve at once.
EXTRA = 8
#: Rows that each packet is in, in a run of up to so many rows and in a longer one, if none is lost.
#: Then one row in 150, and one in 1000, has nothing that a worst client lacks, and tells nothing.
_LAYERS = 5
_FEW_ROWS = 256
_MORE_LAYERS = 7
#: The most rows that a client is made to solve for, which takes it as many squared.
MOST_ROWS = 768
#: Where a client loses more, another way is better.
_MOST_LOSS = 0.5
#: Of the clients that lack most, so many may be left to TCP.
_OUTLIERS = 8
#: Bytes of parity packets that wait at a client to be told what they are.
_MOST_KEPT = 8 * 1024 * 1024


def _layers(rows: int, loss: float) -> int:
    """How many layers a run has, of whose rows such a share is lost."""
    layers = _LAYERS if rows <= _FEW_ROWS else _MORE_LAYERS
    # With an even number of them all rows together would be nothing: one row less tells something.
    return int(layers / (1 - loss)) | 1


class ParityEncoder:
    """Counts parity packets through a session."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.packets = 0

    def plan(self, demand: Demand) -> Slices[_ParityOffer | None]:
        """For as much as it takes to spare TCP the most; the most lossy clients may be left out."""
        counts = sorted(map(len, demand.wanted), reverse=True)
        best: _ParityOffer | None = None
        for lacking in dict.fromkeys(counts[: _OUTLIERS + 1]):
            loss = lacking / demand.packets if demand.loss is None else demand.loss
            if not 0 < lacking <= min(MOST_ROWS, demand.packets) or loss > _MOST_LOSS:
                continue
            rows = math.ceil((lacking + EXTRA) / (1 - loss))
            by_tcp = sum(count - lacking for count in counts[:_OUTLIERS] if count > lacking)
            if best is None or rows + by_tcp / WORTH < best.coded + best.by_tcp / WORTH:
                best = _ParityOffer(self, demand, loss, rows, by_tcp)
        yield
        return best

    def make(self, payload: memoryview, count: int, loss: float) -> Slices[Made]:
        """So many parity packets of a buffer of these full packets, a share of which is lost."""
        run = ParityRun(parity_seq(self.packets), count, _layers(count, loss))
        self.packets += count
        made = yield from sums(run, payload, self.capacity)
        # Where the seqs go round there are two runs.
        whole = min(parity_seq(-1) - run.first + 1, count)
        runs = [(run.first, made[:whole]), (parity_seq(0), made[whole:])]
        return Made([r for r in runs if r[1]], run)


class _ParityOffer:
    def __init__(
        self,
        encoder: ParityEncoder,
        demand: Demand,
        loss: float,
        rows: int,
        by_tcp: int,
    ) -> None:
        self.coded = rows
        self.by_tcp = by_tcp  #: packets that are asked for when these have come
        self.loss = loss
        self.cost = float(rows + by_tcp)
        # Whoever lacks too much asks for it once it has these.
        self.direct: Sequence[Sequence[int]] = [()] * len(demand.wanted)
        self._encoder = encoder
        self._payload = demand.payload

    def make(self) -> Slices[Made]:
        return self._encoder.make(self._payload, self.coded, self.loss)


class ParityDecoder:
    """Keeps parity packets until it is told what they are, and what they say until that helps."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._most_kept = _MOST_KEPT // capacity
        self._kept: dict[int, bytes] = {}
        # Of the buffers of which parity has come: by the seq of the first packet.
        self._systems: dict[int, System] = {}
        # What was asked for, with which all the rest is determined.
        self._needed: dict[int, set[int]] = {}

    def take(self, seq: int, payload: memoryview) -> None:
        """A parity packet has come, intact."""
        if len(payload) != self._capacity:
            return
        if len(self._kept) >= self._most_kept:
            # Those that nobody has told of: of a buffer that was whole here, or forged.
            del self._kept[next(iter(self._kept))]
        self._kept[seq] = bytes(payload)

    def told(self, held: Held, seqs: range, run: ParityRun) -> Slices[list[Mended]]:
        """``run`` is of the buffer with these seqs: what it mends; then ask what is needed."""
        come = ((index, self._kept.pop(seq, None)) for index, seq in enumerate(run.seqs))
        kept = [(index, payload) for index, payload in come if payload is not None]
        system = self._systems.get(seqs.start)
        if system is None:
            bits = 8 * self._capacity
            system = System([seq for seq in seqs if held.lacks(seq)], bits)
            self._systems[seqs.start] = system
        if kept and not system.is_full:
            yield from self._add(system, held, seqs, run, kept)
        return (yield from self.solve(held, seqs))

    def needed(self, seqs: range) -> list[int]:
        """What a client has to ask for of this buffer so that it has all."""
        return sorted(self._needed.get(seqs.start, ()))

    def came(self, seqs: range, seq: int) -> bool:
        """A packet of the buffer has come by TCP: whether to go on solving."""
        needed = self._needed.get(seqs.start)
        if not needed or seq not in needed:
            return False
        needed.discard(seq)
        return not needed and self._systems[seqs.start].has_rows

    def solve(self, held: Held, seqs: range) -> Slices[list[Mended]]:
        """What can be told with all that has come."""
        system = self._systems[seqs.start]
        come = {
            seq: int.from_bytes(payload, "little")
            for seq in system.unknowns
            if (payload := held.received(seq)) is not None
        }
        yield from system.know(come)
        yield from system.reduce()
        solved = system.take_solved()
        self._needed[seqs.start] = set(system.free())
        return [(seq, value.to_bytes(self._capacity, "little")) for seq, value in solved]

    def forget(self, seqs: range) -> None:
        """These packets are not awaited any more."""
        self._systems.pop(seqs.start, None)
        self._needed.pop(seqs.start, None)

    def _add(
        self,
        system: System,
        held: Held,
        seqs: range,
        run: ParityRun,
        kept: Sequence[tuple[int, bytes]],
    ) -> Iterator[None]:
        # What is known is told by its payload, what is not by a bit above it.
        values: list[int] = []
        for start in range(0, len(seqs), READ_SLICE):
            part = [(s, held.received(s)) for s in seqs[start : start + READ_SLICE]]
            values += [
                system.unit(s) if p is None else int.from_bytes(p, "little") for s, p in part
            ]
            yield
        rows = Rows(run, len(seqs))
        yield from rows.arrange(values)
        work = 0
        for index, payload in kept:
            if system.is_full:
                return
            total = rows.total(index) ^ int.from_bytes(payload, "little")
            work += rows.work + system.add(total)
            if work >= SUM_SLICE:
                work = 0
                yield
