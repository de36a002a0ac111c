"""Whom the rate follows: the slowest client, but not one that is far behind all the others.

The control learns nothing of a client that takes less than the least rate; such a one is served
apart once that is certain.  Among many clients neither does it of a few that lose far more than
most: what mending them costs is counted (``patience.py``), and cheaper than a lower rate for all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

from kollacast.congestion import CongestionControl
from kollacast.congestion.control import Epoch
from kollacast.sending.patience import MANY

#: Without a least rate, this part of what the others have taken at best.
_LEAST_SHARE = 0.1
#: Buffers in a row of which a client has taken too little: once may be an accident.
_CERTAIN = 2
#: Lost by one that loses far more than others: so much, and so many times as much.
_FAR_MORE_LOSS = 0.02
_TIMES_LOSS = 4.0
#: How many of them there may be: one of each :data:`MANY`, and no more than so many.
_FEW = 4
#: A buffer of fewer packets measures nothing.
_MIN_PACKETS = 64


class Followers:
    """A control that hears of whom the rate follows; a :class:`CongestionControl`.

    ``too_slow(client, reason)`` is told of who takes less than ``least_bps``, bits a second, or
    None for a part of what the others take.  ``taking_part()`` is how many there are, and
    ``may_go(client)`` whether the others may go on without this one.
    """

    def __init__(
        self,
        control: CongestionControl,
        least_bps: float | None,
        taking_part: Callable[[], int],
        may_go: Callable[[Hashable], bool],
        too_slow: Callable[[Hashable, str], None],
    ) -> None:
        self._control = control
        self._least_bps = least_bps
        self._taking_part = taking_part
        self._may_go = may_go
        self._too_slow = too_slow
        # What most have lost of late, and the best that most have taken.
        self._usual = 0.0
        self._best_bps = 0.0
        # Buffers in a row of which each has taken too little.
        self._slow: dict[Hashable, int] = {}

    @property
    def rate_bps(self) -> float | None:
        return self._control.rate_bps

    @property
    def epoch(self) -> Epoch:
        return self._control.epoch

    def forget(self, client: Hashable) -> None:
        self._slow.pop(client, None)
        self._control.forget(client)

    def report(
        self,
        epoch: Epoch,
        sent_bps: float,
        packets: int,
        losses: Mapping[Hashable, float],
        bursts: Mapping[Hashable, float] | None = None,
    ) -> None:
        clients = self._taking_part()
        if packets >= _MIN_PACKETS and clients > 1:
            if 2 * len(losses) > clients:
                # Of two it is the better one: who loses much may be the one that is not usual.
                self._usual = sorted(losses.values())[(len(losses) - 1) // 2]
                self._best_bps = max(self._best_bps, sent_bps * (1 - self._usual))
            apart = self._too_little(sent_bps, losses) | self._far_more(losses, clients)
            if apart:
                losses = {client: loss for client, loss in losses.items() if client not in apart}
        self._control.report(epoch, sent_bps, packets, losses, bursts)

    def _too_little(self, sent_bps: float, losses: Mapping[Hashable, float]) -> set[Hashable]:
        """Who has taken less than the least rate; who has it from several buffers is told."""
        least_bps = self._least_bps or _LEAST_SHARE * self._best_bps
        if sent_bps * (1 - self._usual) < least_bps:
            return set()  # as most have
        # Of whom nothing has come, it is the reach that is not right.
        slow = {
            client
            for client, loss in losses.items()
            if sent_bps * (1 - loss) < least_bps and loss < 1.0 and self._may_go(client)
        }
        for client in (self._slow.keys() & losses.keys()) - slow:
            del self._slow[client]
        for client in slow:
            times = self._slow[client] = self._slow.get(client, 0) + 1
            if times == _CERTAIN:
                takes = sent_bps * (1 - losses[client]) / 1e6
                least = least_bps / 1e6
                reason = f"it takes {takes:.2g} Mbit/s, and {least:.2g} are the least"
                self._too_slow(client, reason)
        return slow

    def _far_more(self, losses: Mapping[Hashable, float], clients: int) -> set[Hashable]:
        """The few among many that have lost far more than most."""
        most = min(clients // MANY, _FEW)
        bound = _FAR_MORE_LOSS + _TIMES_LOSS * self._usual
        lossy = [client for client, loss in losses.items() if loss > bound] if most else []
        if len(lossy) > most:
            return set()
        return {client for client in lossy if self._may_go(client)}
