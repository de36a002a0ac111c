"""Which packets are combined, so that each client gets all that it lacks.

This is index coding with side information (Bar-Yossef, Birk, Jayram and Kol,
2006; for multicast repair Rozner and others, "ER", 2007), by first fit.
"""

from __future__ import annotations

from collections.abc import Iterable

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
