"""Finds the rate that the slowest client can take, from the losses that clients report.

After each buffer the server knows how fast it left and what share of it each
client lacks.  What a client got is then a measurement of the bottleneck on
its way, as in BBR (Cardwell and others, ACM Queue 2016): the rate goes to
what the worst client *received*, not down by a fixed factor, and so it is
right within a few buffers wherever it began.

Loss alone does not mean congestion.  A cut is therefore a trial: where the
share that is lost stays the same at the lower rate, the rate is not its
cause.  It is taken as the client's base loss from then on, and the cut is
taken back.  So steady random loss costs one short trial and no ratchet.

From its place the rate is raised again in steps that double while nothing is
lost, after each cut beginning small, to follow a bottleneck that goes away.
A client that receives nothing at all has no say: no rate would help it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import sqrt

#: Loss above a client's base that is not yet taken for congestion.
_TOLERANCE = 0.01
#: Standard deviations of a buffer's random loss that are not, either.
_SIGMAS = 3.0
#: After a cut, the rate is this part of what was received: queues drain.
_HEADROOM = 0.97
#: A trial's loss within this part of the loss before says: not congestion.
_UNCHANGED = 0.15
#: Buffers without congestion before the first raise after a cut.
_HOLD = 4
#: The first raise, and the largest.
_STEP = 0.02
_MAX_STEP = 0.25
#: How fast a base loss follows what is measured.
_GAIN = 0.25
#: A limit this far above what leaves is no limit any more.
_FREE = 2.0
_MIN_RATE_BPS = 1e6
#: A buffer of fewer packets measures nothing.
_MIN_PACKETS = 64


@dataclass(frozen=True, slots=True)
class _Trial:
    """A cut whose effect is not known yet."""

    rate_bps: float | None
    losses: Mapping[Hashable, float]


class RateControl:
    """The rate as a function of what was reported; None means unlimited.

    :attr:`epoch` counts the changes of the rate.  A buffer is reported with
    the epoch in which it began to leave.
    """

    def __init__(self) -> None:
        self.rate_bps: float | None = None
        self.epoch = 0
        self._base: dict[Hashable, float] = {}
        self._trial: _Trial | None = None
        self._hold = 0
        self._step = _STEP

    def report(
        self,
        epoch: int,
        sent_bps: float,
        packets: int,
        losses: Mapping[Hashable, float],
    ) -> None:
        """A buffer of ``packets`` left at ``sent_bps``; ``losses`` has each client's share."""
        heard = {client: loss for client, loss in losses.items() if loss < 1.0}
        if packets < _MIN_PACKETS or not heard:
            return
        worst = max(heard, key=lambda client: self._excess(client, heard[client], packets))
        if self._excess(worst, heard[worst], packets) > _TOLERANCE:
            self._congested(epoch, sent_bps, packets, heard, worst)
        elif epoch == self.epoch:
            self._clear(sent_bps, heard)

    def _excess(self, client: Hashable, loss: float, packets: int) -> float:
        base = self._base.get(client, 0.0)
        return loss - base - _noise(base, packets)

    def _congested(
        self,
        epoch: int,
        sent_bps: float,
        packets: int,
        losses: Mapping[Hashable, float],
        worst: Hashable,
    ) -> None:
        trial = self._trial
        if trial is not None and epoch == self.epoch:
            before = trial.losses.get(worst, 0.0)
            change = abs(losses[worst] - before)
            if change <= _UNCHANGED * before + _noise(before, packets):
                self._base.update(losses)
                self._trial = None
                self._set(trial.rate_bps)
                return
        base = self._base.get(worst, 0.0)
        received = sent_bps * (1 - losses[worst]) / max(1 - base, 0.01)
        rate = max(received * _HEADROOM, _MIN_RATE_BPS)
        if self.rate_bps is None or rate < self.rate_bps:
            if trial is None or epoch == self.epoch:
                self._trial = _Trial(self.rate_bps, losses)
            self._hold = _HOLD
            self._step = _STEP
            self._set(rate)

    def _clear(self, sent_bps: float, losses: Mapping[Hashable, float]) -> None:
        self._trial = None
        for client, loss in losses.items():
            base = self._base.get(client, 0.0)
            self._base[client] = base + _GAIN * (loss - base)
        if self.rate_bps is None:
            return
        if self._hold:
            self._hold -= 1
        elif self.rate_bps > _FREE * sent_bps:
            self._set(None)
        else:
            self._set(self.rate_bps * (1 + self._step))
            self._step = min(self._step * 2, _MAX_STEP)

    def _set(self, rate_bps: float | None) -> None:
        self.rate_bps = rate_bps
        self.epoch += 1


def _noise(loss: float, packets: int) -> float:
    """How far the share of ``packets`` lost at random may stray from ``loss``."""
    return _SIGMAS * sqrt(loss * (1 - loss) / packets)
