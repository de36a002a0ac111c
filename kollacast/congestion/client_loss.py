"""What one client loses: how much of it is not the rate's, and how far that strays."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

#: Loss above a client's base that is not yet taken for congestion.
_TOLERANCE = 0.005
#: Standard deviations of a random loss that are not, either: there may be a
#: thousand clients, and the worst of them counts.
_SIGMAS = 3.0
#: The same in mean deviations, for losses that stray more than chance explains.
_STRAYS = 4.0
#: A decision rests on so many packets of a client, or on fewer where random
#: loss strays by no more than this share.
_ENOUGH_PACKETS = 1500
_PRECISE = 0.02
#: How fast a base loss follows what is measured.
_GAIN = 0.25
#: So many packets lost at a time are counted as one accident at the most: what
#: a kernel hands over in one piece where a link takes that.
_MAX_BURST = 64.0


class Loss(NamedTuple):
    """The share of so many packets that a client lacked.

    Packets that are lost together are one accident: where losses come in
    bursts, that many packets count as one.
    """

    share: float
    packets: float

    def plus(self, other: Loss | None) -> Loss:
        """The loss of both together."""
        if other is None:
            return self
        packets = self.packets + other.packets
        share = (self.share * self.packets + other.share * other.packets) / packets
        return Loss(share, packets)


@dataclass(slots=True)
class ClientLoss:
    """A client's ``base`` loss, which is not the rate's, and how far it strays from it.

    ``suspected`` says whether it lost more than that of the last buffer, and
    ``burst`` how many packets it loses at a time.
    """

    base: float = 0.0
    burst: float = 1.0
    stray: float = 0.0
    suspected: bool = False

    def measured(self, share: float, packets: int, burst: float | None) -> Loss:
        """The loss of so many packets; how many go at a time is remembered while nothing does."""
        if burst is not None:
            gain = _GAIN if self.burst > 1.0 else 1.0
            self.burst += gain * (min(burst, _MAX_BURST) - self.burst)
        return Loss(share, packets / self.burst)

    def exceeds(self, loss: Loss) -> bool:
        """Whether that is more than chance and the base loss explain."""
        # Of a thousand clients nearly all answer the first question.
        beyond = loss.share - self.base - _TOLERANCE
        return beyond > 0 and beyond > self._noise(loss.packets)

    def falls_short(self, loss: Loss) -> bool:
        """Whether the base loss is too high to explain that."""
        short = self.base - loss.share
        return short > 0 and short > self._noise(loss.packets)

    def learn(self, share: float) -> None:
        """``share`` was lost at a rate that is no cause of it."""
        self.stray += _GAIN * (abs(share - self.base) - self.stray)
        self.base += _GAIN * (share - self.base)

    def received(self, loss: Loss) -> float:
        """The part of what its base loss leaves that the client got."""
        return (1 - loss.share) / (1 - self.base)

    def is_enough(self, loss: Loss) -> bool:
        """Whether a decision can rest on it."""
        if loss.packets >= _ENOUGH_PACKETS:
            return True
        return _chance(max(loss.share, self.base), loss.packets) <= _PRECISE

    def _noise(self, packets: float) -> float:
        # A loss that strays further than its own size must be seen anew.
        return max(_chance(self.base, packets), min(_STRAYS * self.stray, self.base))


def _chance(share: float, packets: float) -> float:
    """How far the share of ``packets`` lost at random may stray from ``share``."""
    share = min(share + _TOLERANCE, 0.5)
    return _SIGMAS * sqrt(share * (1 - share) / packets)
