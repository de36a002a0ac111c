"""Packets that are the XOR of some of a buffer's, told in recipes.

A client that lacks one packet of a combination and has all the others gets
the missing one by XOR.  The server knows who asked for what, so it combines
packets that no client lacks two of: with four clients that each lost 5 % on
their own, 5 % of the packets mend all four, where sending each lost packet
again takes 18 %, and sending it to each client that lost it 20 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import xor

from kollacast.repair.planning import plan
from kollacast.repair.scheme import Held, Scheme
from kollacast.wire import recipes
from kollacast.wire.recipes import RECIPE_BASE, Recipe, combination_seq, max_terms, recipe_seq

#: Combinations that are waited for at a time.
_MAX_RECIPES = 65536


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

    def begin(self, payload_of: Callable[[int], memoryview | None]) -> _XorMending:
        return _XorMending(self, payload_of)


class _XorMending:
    def __init__(self, encoder: XorEncoder, payload_of: Callable[[int], memoryview | None]) -> None:
        self._encoder = encoder
        self._payload_of = payload_of
        self._combinations: list[list[int]] = []
        self._payloads: list[bytes] = []

    def add(self, wanted: Sequence[Sequence[int]], most: float) -> bool:
        capacity = self._encoder.capacity
        planned = plan(wanted, max_terms(capacity))
        if len(planned) > most:
            return False
        self._combinations += planned
        for terms in planned:
            known = [p for seq in terms if (p := self._payload_of(seq)) is not None]
            self._payloads.append(combine(known, capacity))
        return True

    def runs(self) -> list[tuple[int, list[bytes]]]:
        if not self._combinations:
            return []
        encoder = self._encoder
        told = recipes.pack(self._combinations, encoder.combinations, encoder.capacity)
        recipe = (recipe_seq(encoder.recipes), told)
        combination = (combination_seq(encoder.combinations), self._payloads)
        encoder.recipes += len(told)
        encoder.combinations += len(self._combinations)
        # Twice: whoever misses a recipe can use none of its combinations.
        return [recipe, recipe, combination]


class XorDecoder:
    """Keeps the recipes that can help, each until its combination comes."""

    def __init__(self, capacity: int, held: Held) -> None:
        self._capacity = capacity
        self._held = held
        # For each combination the packet that it mends, and all that it is made of.
        self._recipes: dict[int, tuple[int, tuple[int, ...]]] = {}

    def take(self, seq: int, payload: memoryview) -> tuple[int, bytes] | None:
        if seq >= RECIPE_BASE:
            for combination, terms in Recipe.decode(payload).named():
                lacking = [term for term in terms if self._held.lacks(term)]
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
        self._recipes = {
            combination: recipe
            for combination, recipe in self._recipes.items()
            if recipe[0] not in seqs
        }


XOR = Scheme(lambda capacity: max_terms(capacity) >= 2, XorEncoder, XorDecoder)
