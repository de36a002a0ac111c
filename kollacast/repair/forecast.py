"""How much parity the next buffer needs, from what clients lost of the last ones.

What is sent unasked, behind a buffer and before anybody can say what it lacks, spares the requests
and the time that they take: so does NORM (RFC 5740, section 5.2, "auto parity").  How many packets
of it are best is what would have been best for the last buffers: each costs as much as one that is
asked for, and of a client for which they do not suffice a request counts as well.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import nlargest
from itertools import accumulate
from typing import NamedTuple

from kollacast.repair.parity import EXTRA, MOST_ROWS
from kollacast.repair.scheme import WORTH

#: Buffers that are looked back upon.
_REMEMBERED = 8
#: Of each of them, so many clients that lost most are looked at one by one.
_WORST = 32
#: So many clients lose something of a buffer; for fewer it is asked what they lack.
MANY = 16
#: Who loses more than this share is served apart.
_MOST_LOSS = 0.2
#: A request costs the server as much time as so many packets take on a link of 1 Gbit/s.
_REQUEST = 6
#: How far the worst of many strays, in standard deviations, where a buffer has another size.
_SIGMAS = 3.0


class Ahead(NamedTuple):
    """So many parity packets, for clients that lose such a share of them."""

    rows: int
    loss: float


NOTHING = Ahead(0, 0.0)


class _Seen(NamedTuple):
    """What was lost of one buffer by those who may be helped: the most, in falling order."""

    packets: int
    clients: int
    total: int
    worst: Sequence[int]


class _Needs:
    """What the clients of a buffer like that would have needed of one of so many packets."""

    def __init__(self, seen: _Seen, packets: int) -> None:
        # Chance counts for more where packets are fewer.
        ratio = packets / seen.packets
        stray = _SIGMAS * (math.sqrt(ratio) - ratio)
        worst = [max(round(ratio * lost + stray * math.sqrt(lost)), 1) for lost in seen.worst]
        self._total = ratio * seen.total
        self._clients = min(seen.clients, self._total)
        #: Parity packets that the worst need, in rising order, where that is not too many.
        self.rows = sorted(_rows(lost, packets) for lost in worst)
        self._most = _rows(max(worst, default=0), packets)
        self._sums = [0, *accumulate(self.rows)]

    def cost(self, rows: int) -> float:
        """What it costs behind so many parity packets, these left out, in packets."""
        served = bisect_right(self.rows, rows)
        short: float = len(self.rows) - served
        if not short:
            return 0.0
        if not served and self._clients > short:
            # Nobody knows how many of the others lack something.
            short, lacking = self._clients, self._total
        else:
            lacking = self._sums[-1] - self._sums[served] - short * rows
        return min(lacking * WORTH, self._most - rows + EXTRA) + _REQUEST * short


class Forecast:
    """Told of each buffer; says how many parity packets to send with the next."""

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque(maxlen=_REMEMBERED)

    def heard(self, packets: int, lost: Iterable[int]) -> None:
        """Of a buffer of so many packets, clients lost so many each."""
        most = packets * _MOST_LOSS
        some = [count for count in lost if 0 < count <= most]
        self._seen.append(_Seen(packets, len(some), sum(some), nlargest(_WORST, some)))

    def ahead(self, packets: int) -> Ahead:
        """What is best sent behind a buffer of so many packets."""
        if sum(seen.clients for seen in self._seen) <= MANY * len(self._seen):
            return NOTHING
        needs = [_Needs(seen, packets) for seen in self._seen]
        most = _rows(MOST_ROWS, packets)
        candidates = {0}.union(*(need.rows for need in needs))
        best = min(
            (rows for rows in candidates if rows <= most),
            key=lambda rows: rows + sum(need.cost(rows) for need in needs) / len(needs),
        )
        # Who loses more of a buffer loses more of its parity, too: it is for so much.
        return Ahead(best, (best - EXTRA) / (packets + best)) if best else NOTHING


def _rows(lost: int, packets: int) -> int:
    """How many parity packets have to leave for a client that loses so many of the buffer."""
    return math.ceil((lost + EXTRA) / (1 - min(lost / packets, _MOST_LOSS)))
