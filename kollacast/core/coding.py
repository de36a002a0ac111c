"""Coded repairs: one multicast packet that mends a different loss at each client.

A client that lacks one packet of a combination and has all the others gets
the missing one by XOR.  The server knows who asked for what, so it combines
packets that no client lacks two of: with four clients that each lost 5 % on
their own, 5 % of the packets mend all four, where sending each lost packet
again takes 18 %, and sending it to each client that lost it 20 %.

This is index coding with side information (Bar-Yossef, Birk, Jayram and Kol,
2006; for multicast repair Rozner and others, "ER", 2007), by first fit.

A *recipe* packet says what the combinations are made of: the u32 seq of its
first combination, then for each a u32 count and so many u32 seqs, in network
order; a count of 0 ends it.  Recipes and combinations are ordinary packets
with reserved seqs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import xor

#: Seqs of combinations begin here, those of recipes there.
COMBINATION_BASE = 0x8000_0000
RECIPE_BASE = 0xC000_0000
#: Combinations count up modulo this, and so do recipes.
SEQ_SPAN = 0x4000_0000

#: Packets of one combination at the most: each one more is work for everyone.
_MAX_TERMS = 32
#: Sets of clients whose combinations a packet is tried to fit into.
_OPEN = 48


def plan(wanted: Iterable[Iterable[int]], terms_limit: int) -> list[list[int]]:
    """Combinations of seqs that give every client all it wants.

    ``wanted`` has the seqs that each client lacks.  No client lacks two
    packets of a combination, and none has more than ``terms_limit`` terms,
    which must be 2 or more.
    """
    lacking: dict[int, int] = {}
    for client, seqs in enumerate(wanted):
        bit = 1 << client
        for seq in seqs:
            lacking[seq] = lacking.get(seq, 0) | bit
    combinations: list[list[int]] = []
    # Those that take one more packet, by the clients that lack one of theirs.
    fitting: dict[int, list[list[int]]] = {}
    for seq, mask in sorted(lacking.items(), key=lambda item: -item[1].bit_count()):
        for taken in fitting:
            if not taken & mask:
                terms = fitting[taken].pop()
                if not fitting[taken]:
                    del fitting[taken]
                mask |= taken
                break
        else:
            terms = []
            combinations.append(terms)
        terms.append(seq)
        if len(terms) < terms_limit:
            fitting.setdefault(mask, []).append(terms)
            if len(fitting) > _OPEN:
                del fitting[next(iter(fitting))]
    return combinations


def combine(payloads: Sequence[memoryview], capacity: int) -> bytes:
    """The XOR of ``payloads``, each as if padded with zeros to ``capacity``."""
    total = reduce(xor, [int.from_bytes(payload, "little") for payload in payloads])
    return total.to_bytes(capacity, "little")


def recipes(combinations: Sequence[Sequence[int]], first: int, capacity: int) -> list[bytes]:
    """Recipe packets for combinations whose seqs count up from ``first``.

    Each is ``capacity`` bytes long.  ``capacity`` must hold one combination.
    """
    packets: list[bytes] = []
    words: list[int] = []
    limit = capacity // 4 - 1
    for number, terms in enumerate(combinations):
        if words and len(words) + 1 + len(terms) > limit:
            packets.append(_packed(words, capacity))
            words = []
        if not words:
            words = [combination_seq(first + number)]
        words += [len(terms), *terms]
    if words:
        packets.append(_packed(words, capacity))
    return packets


def max_terms(capacity: int) -> int:
    """The most packets of one combination that a recipe of ``capacity`` bytes can name."""
    return min(_MAX_TERMS, capacity // 4 - 3)


def combination_seq(number: int) -> int:
    """The seq of the combination with this running number."""
    return COMBINATION_BASE + number % SEQ_SPAN


def recipe_seq(number: int) -> int:
    """The seq of the recipe with this running number."""
    return RECIPE_BASE + number % SEQ_SPAN


def read_recipe(payload: bytes | memoryview) -> Mapping[int, tuple[int, ...]]:
    """The seqs that each combination is made of; nonsense gives fewer or none."""
    count = len(payload) // 4
    if count == 0:
        return {}
    words = struct.unpack_from(f"!{count}I", payload)
    found: dict[int, tuple[int, ...]] = {}
    number = words[0] - COMBINATION_BASE
    position = 1
    while position < count and 0 < words[position] <= count - position - 1:
        terms = words[position + 1 : position + 1 + words[position]]
        found[combination_seq(number)] = terms
        number += 1
        position += 1 + len(terms)
    return found


def _packed(words: list[int], capacity: int) -> bytes:
    return struct.pack(f"!{len(words)}I", *words).ljust(capacity, b"\x00")
