"""Packets that are the XOR of some of a buffer's, told in recipes.

A client that lacks one packet of a combination and has all the others gets
the missing one by XOR.  The server knows who asked for what, so it combines
packets that no client lacks two of: with four clients that each lost 5 % on
their own, 5 % of the packets mend all four, where sending each lost packet
again takes 18 %, and sending it to each client that lost it 20 %.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import reduce
from itertools import repeat
from operator import xor

from kollacast.repair.planning import plan
from kollacast.repair.scheme import WORTH, Demand, Held, Made, Mended, Slices
from kollacast.wire import recipes
from kollacast.wire.recipes import RECIPE_BASE, Recipe, combination_seq, max_terms, recipe_seq

#: Combinations that are waited for at a time: 20 MB, were each of the most packets.
_MAX_RECIPES = 16384
#: Bytes of recipes that are read for each buffer that comes, and at once. A server sends a few
#: packets of them; whoever else sends more costs a client no more than these.
_BYTES_A_BUFFER = 96 * 1024
_MOST_LEFT = 384 * 1024
#: Of the combinations that clients may lose, so many count.
_AGAIN = 0.5
#: Seqs that are planned in one go.
_SLICE = 1024


def combine(payloads: Sequence[memoryview], capacity: int) -> bytes:
    """The XOR of ``payloads``, each as if padded with zeros to ``capacity``."""
    total = reduce(xor, [int.from_bytes(payload, "little") for payload in payloads])
    return total.to_bytes(capacity, "little")


class XorEncoder:
    """Counts combinations and recipes through a session."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.combinations = 0
        self.recipes = 0

    def plan(self, demand: Demand) -> Slices[_XorOffer | None]:
        """Combinations slice by slice, each only where that is worth it."""
        combinations: list[list[int]] = []
        payloads: list[bytes] = []
        direct: list[list[int]] = [[] for _ in demand.wanted]
        lacking = [sorted(seqs) for seqs in demand.wanted]
        done = [0] * len(lacking)
        for start in range(demand.first, demand.first + demand.packets, _SLICE):
            # Each request is gone through once, however many slices there are.
            ends = list(map(bisect_left, lacking, repeat(start + _SLICE), done))
            wanted = [lacking[client][done[client] : end] for client, end in enumerate(ends)]
            done = ends
            planned = plan(wanted, max_terms(self.capacity))
            if len(planned) <= WORTH * sum(map(len, wanted)):
                combinations += planned
                for terms in planned:
                    known = list(map(demand.packet, terms))
                    payloads.append(combine(known, self.capacity))
            else:
                for client, seqs in enumerate(wanted):
                    direct[client] += seqs
            yield
        return _XorOffer(self, demand, combinations, payloads, direct) if combinations else None


class _XorOffer:
    def __init__(
        self,
        encoder: XorEncoder,
        demand: Demand,
        combinations: list[list[int]],
        payloads: list[bytes],
        direct: list[list[int]],
    ) -> None:
        self.direct = direct
        counts = list(map(len, demand.wanted))
        self.loss = min(max(counts) / demand.packets, 1.0)
        self._encoder = encoder
        self._combinations = combinations
        self._payloads = payloads
        by_recipe = encoder.capacity // 4 - 1
        words = len(combinations) + sum(map(len, combinations))
        # Who loses a combination has to ask for what it would have mended; where losses are those
        # of a link that many share, fewer do.
        again = _AGAIN * sum(count * count for count in counts) / demand.packets
        self.coded = len(combinations) + 2 * words / by_recipe
        self.cost = self.coded + again + sum(map(len, direct))

    def make(self) -> Slices[Made]:
        encoder = self._encoder
        told = recipes.pack(self._combinations, encoder.combinations, encoder.capacity)
        recipe = (recipe_seq(encoder.recipes), told)
        combination = (combination_seq(encoder.combinations), self._payloads)
        encoder.recipes += len(told)
        encoder.combinations += len(self._combinations)
        yield
        # Twice: whoever misses a recipe can use none of its combinations.
        return Made([recipe, recipe, combination])


class XorDecoder:
    """Keeps the recipes that can help, each until its combination comes."""

    def __init__(self, capacity: int, held: Held) -> None:
        self._capacity = capacity
        self._held = held
        # For each combination the packet that it mends, and all that it is made of.
        self._recipes: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._left = _BYTES_A_BUFFER

    def expect(self) -> None:
        """Another buffer is awaited."""
        self._left = min(self._left + _BYTES_A_BUFFER, _MOST_LEFT)

    def take(self, seq: int, payload: memoryview) -> Mended | None:
        """A recipe or a combination has come, intact: what that mends, if anything."""
        if seq >= RECIPE_BASE:
            if len(payload) > self._left:
                return None
            self._left -= len(payload)
            for combination, terms in Recipe.decode(payload).named():
                lacking = self._held.lacking(terms)
                if len(lacking) == 1 and len(self._recipes) < _MAX_RECIPES:
                    self._recipes[combination] = (lacking[0], terms)
            return None
        missing, terms = self._recipes.pop(seq, (0, ()))
        if not terms or not self._held.lacks(missing):
            return None
        known = [payload]
        for term in terms:
            if term != missing:
                view = self._held.received(term)
                if view is None:
                    return None
                known.append(view)
        return missing, combine(known, self._capacity)

    def forget(self, seqs: range) -> None:
        """These packets are not awaited any more."""
        self._recipes = {
            combination: recipe
            for combination, recipe in self._recipes.items()
            if recipe[0] not in seqs
        }
