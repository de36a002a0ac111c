"""The coded repairs that have come by multicast, kept once for all simulated hosts.

What is in a combination does not matter here, only which packets it is made of, and of a parity
packet only that it has come; who has lost a recipe, a combination or a parity packet is for each
host to draw.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kollacast.wire.packets import PacketCodec
from kollacast.wire.parity import ParityRun
from kollacast.wire.recipes import PIECES_BASE, RECIPE_BASE, Recipe, is_parity
from kollacast.wire.structures import PACKET_HEADER_SIZE, SEQ_LIMIT


@dataclass(slots=True, eq=False)
class Combination:
    """One combination: its terms, and the numbers of the datagrams that told of it and had it."""

    terms: tuple[int, ...]
    recipes: list[int] = field(default_factory=list)
    number: int | None = None  #: None until it has come


class Combinations:
    """Takes datagrams; tells which combinations a packet is part of."""

    def __init__(self, codec: PacketCodec) -> None:
        self.packets = 0  #: coded packets, recipes among them; they are numbered from 0
        self.of_image = 0  #: packets of the image, which tell nothing here
        self._codec = codec
        self._by_seq: dict[int, Combination] = {}
        self._by_term: dict[int, list[Combination]] = {}
        self._parity: dict[int, int] = {}
        # Most hosts ask of the same run.
        self._run: tuple[ParityRun, list[int]] | None = None

    def take(self, datagram: bytes) -> None:
        """A datagram has come, of whatever kind."""
        payload = memoryview(datagram)[PACKET_HEADER_SIZE:]
        if not payload:
            return
        (seq,), intact = self._codec.open(datagram, 0, [payload], (len(payload),))
        if not intact[0] or seq >= PIECES_BASE:
            return  # damaged, or digests of pieces, of which nobody here has one
        if seq < SEQ_LIMIT:
            self.of_image += 1
            return
        number, self.packets = self.packets, self.packets + 1
        if is_parity(seq):
            self._parity[seq] = number
            self._run = None
            return
        if seq < RECIPE_BASE:
            combination = self._by_seq.pop(seq, None)
            if combination is not None:
                combination.number = number
            return
        for named, terms in Recipe.decode(payload).named():
            combination = self._by_seq.get(named)
            if combination is None:
                combination = self._by_seq[named] = Combination(terms)
                for term in terms:
                    self._by_term.setdefault(term, []).append(combination)
            combination.recipes.append(number)

    @property
    def has_none(self) -> bool:
        """Whether nobody need look for any."""
        return not self._by_term

    def with_term(self, seq: int) -> list[tuple[int, Combination]]:
        """Those that have come, by their numbers, and that this packet is part of."""
        found = self._by_term.get(seq, ())
        return [(c.number, c) for c in found if c.number is not None]

    def parity(self, run: ParityRun) -> list[int]:
        """The numbers of the packets of ``run`` that have come."""
        if self._run is None or self._run[0] != run:
            self._run = run, [self._parity[seq] for seq in run.seqs if seq in self._parity]
        return self._run[1]

    def forget(self, seqs: range) -> None:
        """No host lacks any of these packets any more."""
        for seq in seqs:
            self._by_term.pop(seq, None)
