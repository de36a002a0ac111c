"""Which way meets a demand with the fewest packets, where any is better than TCP."""

from __future__ import annotations

from kollacast.repair import rows
from kollacast.repair.forecast import MANY, Ahead
from kollacast.repair.parity import ParityEncoder
from kollacast.repair.scheme import WORTH, Demand, Made, Offer, Slices
from kollacast.repair.xor import XorEncoder

#: Parity has to spare so much of its own packets against combinations, which cost less work.
_CLEARLY = 0.25
#: Requested packets from which on combinations are not tried, where parity will do.
_MOST_COMBINED = 8192


def prepare(clients: int) -> None:
    """Load what makes parity for so many clients fast, if it is installed."""
    if clients > MANY:
        rows.load_numpy()


class Choice:
    """The server's side, for a session."""

    def __init__(self, capacity: int) -> None:
        self._xor = XorEncoder(capacity)
        self._parity = ParityEncoder(capacity)

    def ahead(self, payload: memoryview, ahead: Ahead) -> Slices[Made]:
        """What leaves unasked behind a buffer of these full packets."""
        return self._parity.make(payload, *ahead)

    def plan(self, demand: Demand) -> Slices[Offer | None]:
        """How a demand is met best; None where that is by TCP."""
        parity = yield from self._parity.plan(demand)
        if parity is not None and parity.cost > WORTH * demand.requested:
            parity = None
        if demand.loss is not None or (parity and demand.requested > _MOST_COMBINED):
            # A client that has had parity may lack more than it asks for, so nothing is certain
            # of a combination.
            return parity
        combined = yield from self._xor.plan(demand)
        if parity and combined and parity.cost + _CLEARLY * parity.coded > combined.cost:
            return combined
        return parity or combined
