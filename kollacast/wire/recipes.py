"""Reserved seqs, and the recipes: packets that say what coded packets are made of.

A *combination* is the XOR of some packets of a buffer.  A *recipe* is a packet that names the
terms of combinations whose seqs count up: the u32 seq of the first one, then for each a u32 count
and so many u32 seqs, in network order; a count of 0, or the end, ends it.  A *parity packet* needs
none, see `kollacast.wire.parity`.  All are sealed like other packets, and have seqs that are not
the image's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Seqs of combinations begin here, those of parity, recipe, control and piece packets there.
COMBINATION_BASE = 0x8000_0000
PARITY_BASE = 0xA000_0000
RECIPE_BASE = 0xC000_0000
CONTROL_BASE = 0xE000_0000
PIECES_BASE = 0xF000_0000
#: Each kind counts up modulo this, and the last two modulo half of it.
SEQ_SPAN = 0x2000_0000

#: Packets of one combination at the most: each one more is work for everyone.
_MAX_TERMS = 32


def combination_seq(number: int) -> int:
    """The seq of the combination with this running number."""
    return COMBINATION_BASE + number % SEQ_SPAN


def recipe_seq(number: int) -> int:
    """The seq of the recipe with this running number."""
    return RECIPE_BASE + number % SEQ_SPAN


def control_seq(number: int) -> int:
    """The seq of the control packet with this running number."""
    return CONTROL_BASE + number % (PIECES_BASE - CONTROL_BASE)


def pieces_seq(number: int) -> int:
    """The seq of the packet with the digests of pieces that has this running number."""
    return PIECES_BASE + number % (PIECES_BASE - CONTROL_BASE)


def parity_seq(number: int) -> int:
    """The seq of the parity packet with this running number."""
    return PARITY_BASE + number % SEQ_SPAN


def parity_number(seq: int) -> int:
    """The running number of a parity packet, modulo the span."""
    return seq - PARITY_BASE


def is_parity(seq: int) -> bool:
    """Whether a parity packet has this seq."""
    return PARITY_BASE <= seq < PARITY_BASE + SEQ_SPAN


def max_terms(capacity: int) -> int:
    """The most packets of one combination that a recipe of ``capacity`` bytes can name."""
    return min(_MAX_TERMS, capacity // 4 - 3)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The seqs that each combination is made of, the first of which has the seq ``first``."""

    first: int
    combinations: tuple[tuple[int, ...], ...]

    def encode(self, capacity: int) -> bytes:
        """The payload, which fills a packet of ``capacity`` bytes."""
        words = [self.first]
        for terms in self.combinations:
            words += [len(terms), *terms]
        return struct.pack(f"!{len(words)}I", *words).ljust(capacity, b"\x00")

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> Recipe:
        """Read a payload; nonsense gives fewer combinations or none."""
        count = len(payload) // 4
        first, *words = struct.unpack_from(f"!{count}I", payload) if count else (0,)
        combinations = []
        position = 0
        # Our server names no more terms than these, and each one more is work.
        while position < len(words) and 0 < words[position] <= _MAX_TERMS:
            if words[position] > len(words) - position - 1:
                break
            end = position + 1 + words[position]
            combinations.append(tuple(words[position + 1 : end]))
            position = end
        return cls(first, tuple(combinations))

    def named(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Each combination's seq, and what it is made of."""
        for number, terms in enumerate(self.combinations, self.first - COMBINATION_BASE):
            yield combination_seq(number), terms


def pack(combinations: Sequence[Sequence[int]], first_number: int, capacity: int) -> list[bytes]:
    """The payloads of as few recipes as name all combinations, whose running numbers count up.

    ``capacity``, in bytes of payload, must hold one combination.
    """
    found: list[Recipe] = []
    part: list[tuple[int, ...]] = []
    limit = capacity // 4 - 1
    size = 1
    for terms in combinations:
        if part and size + 1 + len(terms) > limit:
            found.append(Recipe(combination_seq(first_number), tuple(part)))
            first_number += len(part)
            part, size = [], 1
        part.append(tuple(terms))
        size += 1 + len(terms)
    if part:
        found.append(Recipe(combination_seq(first_number), tuple(part)))
    return [recipe.encode(capacity) for recipe in found]
