"""Coded repairs: one multicast packet that mends a different loss at each client.

A client that lacks one packet of a combination and has all the others gets
the missing one by XOR.  The server knows who asked for what, so it combines
packets that no client lacks two of: with four clients that each lost 5 % on
their own, 5 % of the packets mend all four, where sending each lost packet
again takes 18 %, and sending it to each client that lost it 20 %.

This is index coding with side information (Bar-Yossef, Birk, Jayram and Kol,
2006; for multicast repair Rozner and others, "ER", 2007), by first fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import xor

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
