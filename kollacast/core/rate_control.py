"""Finds the rate that the slowest client can take, from the losses that clients report.

After each buffer the server knows how fast it left and what share of it each
client lacks.  What a client got is then a measurement of the bottleneck on
its way, as in BBR (Cardwell and others, ACM Queue 2016): the rate goes to
what the worst client *received*, not down by a fixed factor, and so it is
right within a few buffers wherever it began.

Loss alone does not mean congestion.  A cut is therefore a trial, some way
below what was received.  Where the share that is lost stays the same at the
lower rate, the rate is not its cause: it is taken as the client's base loss
from then on, and the cut is taken back.  So steady random loss costs one
short trial and no ratchet.  Where the loss goes away, queues have drained in
the meantime, and the rate settles close below what was received.

From there it is raised again while nothing is lost, in small steps around the
bottleneck that was found and in doubling ones beyond, to follow one that goes
away.  A client that receives nothing at all has no say: no rate would help it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from math import sqrt

#: Loss above a client's base that is not yet taken for congestion.
_TOLERANCE = 0.01
#: Standard deviations of a buffer's random loss that are not, either.
_SIGMAS = 3.0
#: During a trial the rate is this part of what was received: queues drain.
_TRIAL = 0.90
#: A trial's loss within this part of the loss before says: not congestion.
_UNCHANGED = 0.15
#: After a trial that helped, the rate is this part of what was received.
_SETTLED = 0.98
#: Buffers without congestion before the first raise after that.
_HOLD = 4
#: A raise near the bottleneck, and the largest one.
_STEP = 0.01
_MAX_STEP = 0.25
#: So far above the bottleneck, raises begin to double.
_NEAR = 1.1
#: The rate is raised only while this part of it is used.
_USED = 0.85
#: How fast a base loss follows what is measured.
_GAIN = 0.25
_MIN_RATE_BPS = 1e6
#: A buffer of fewer packets measures nothing.
_MIN_PACKETS = 64


@dataclass(frozen=True, slots=True)
class _Trial:
    """A cut whose effect is not known yet: the rate and losses before, and what was received."""

    rate_bps: float | None
    losses: Mapping[Hashable, float]
    received_bps: float


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
        self._bottleneck_bps = 0.0
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
        if self._excess(worst, heard[worst], packets) <= _TOLERANCE:
            if epoch == self.epoch:
                self._clear(sent_bps, heard)
            return
        base = self._base.get(worst, 0.0)
        received = sent_bps * (1 - heard[worst]) / max(1 - base, 0.01)
        trial = self._trial
        if trial is None:
            if self.rate_bps is None or received * _TRIAL < self.rate_bps:
                self._try(_Trial(self.rate_bps, heard, received))
        elif epoch < self.epoch:
            # It left before the cut: the better of two measurements counts.
            if received > trial.received_bps:
                self._trial = replace(trial, received_bps=received)
                self.rate_bps = max(received * _TRIAL, _MIN_RATE_BPS)
        elif self._unchanged(trial.losses.get(worst, 0.0), heard[worst], packets):
            self._base.update(heard)
            self._trial = None
            self._set(trial.rate_bps)
        else:
            self._try(_Trial(trial.rate_bps, heard, received))

    def _excess(self, client: Hashable, loss: float, packets: int) -> float:
        base = self._base.get(client, 0.0)
        return loss - base - _noise(base, packets)

    def _unchanged(self, before: float, after: float, packets: int) -> bool:
        return abs(after - before) <= _UNCHANGED * before + _noise(before, packets)

    def _try(self, trial: _Trial) -> None:
        self._trial = trial
        self._set(max(trial.received_bps * _TRIAL, _MIN_RATE_BPS))

    def _clear(self, sent_bps: float, losses: Mapping[Hashable, float]) -> None:
        for client, loss in losses.items():
            base = self._base.get(client, 0.0)
            self._base[client] = base + _GAIN * (loss - base)
        trial, self._trial = self._trial, None
        if self.rate_bps is None:
            return
        if trial is not None:
            self._bottleneck_bps = trial.received_bps
            self._hold = _HOLD
            self._step = _STEP
            self._set(trial.received_bps * _SETTLED)
        elif self._hold:
            self._hold -= 1
        elif sent_bps > _USED * self.rate_bps:
            self._set(self.rate_bps * (1 + self._step))
            if self.rate_bps > _NEAR * self._bottleneck_bps:
                self._step = min(self._step * 2, _MAX_STEP)

    def _set(self, rate_bps: float | None) -> None:
        self.rate_bps = rate_bps
        self.epoch += 1


def _noise(loss: float, packets: int) -> float:
    """How far the share of ``packets`` lost at random may stray from ``loss``."""
    return _SIGMAS * sqrt(loss * (1 - loss) / packets)
