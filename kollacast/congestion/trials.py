"""Finds the rate that the slowest client can take, from the losses that clients report.

What the worst client got of a buffer is a measurement of the bottleneck: the rate goes to that,
and not down by a fixed factor.  Loss alone does not mean congestion, so a cut is a trial: what is
lost at two lower rates in a row as well is not the rate's, but that client's base loss, and what
was received before is judged again in the light of it.  ``docs/architecture.md``, "Pace", has the
rules one by one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from kollacast.congestion.client_loss import ClientLoss, Loss
from kollacast.congestion.control import FIRST_EPOCH, Epoch

#: During a trial the rate is this part of what was received: queues drain.
_TRIAL = 0.90
#: A loss of which at least this part stays at a lower rate is not, or not
#: only, the rate's: of one that is, nothing should stay.
_STAYS = 0.5
#: One that rises by more than this factor at a lower rate says nothing: one of
#: the two measurements was a bad one.
_RISES = 2.0
#: Lower rates in a row at which a loss must stay to be a base loss.
_CONFIRMED = 2
#: After a trial that helped, the rate is this part of what was received.
_SETTLED = 0.98
#: Decisions that find no congestion before the first raise after that.
_HOLD = 4
#: A raise near the bottleneck; so far above it raises begin to grow, by this
#: factor each, up to the largest one.
_STEP = 0.01
_NEAR = 1.05
_GROWTH = 1.35
_MAX_STEP = 0.5
#: The rate is raised only while this part of it is used.
_USED = 0.85
_MIN_RATE_BPS = 1e6
#: A buffer of fewer packets measures nothing.
_MIN_PACKETS = 64
#: A measurement belongs to the same rate as another from this part of it up.
_SAME_RATE = 0.97
#: A trial's rate is not changed by less than this part of it.
_SLIGHT = 0.005


_Losses = dict[Hashable, Loss]


class _Measured(NamedTuple):
    """What was lost at one rate."""

    epoch: Epoch
    sent_bps: float
    losses: _Losses


@dataclass(slots=True)
class _Trial:
    """A cut whose effect is not known yet.

    ``rate_bps`` was the rate before.  ``measured`` are the losses at each
    rate since then, the present one excepted; ``suspects`` are the clients
    that lost too much at any of them, and ``stayed`` the rates in a row at
    which they lost as much as before.
    """

    rate_bps: float | None
    measured: list[_Measured]
    suspects: set[Hashable]
    stayed: int = 0


class Trials:
    """The rate as a function of what was reported; None means unlimited.

    :attr:`epoch` counts the changes of the rate.  A buffer is reported with
    the epoch in which it began to leave.
    """

    def __init__(self) -> None:
        self.rate_bps: float | None = None
        self.epoch = FIRST_EPOCH
        self._clients: dict[Hashable, ClientLoss] = {}
        # What was lost in this epoch since the last decision.
        self._window: _Losses = {}
        self._trial: _Trial | None = None
        # Buffers of earlier epochs left at a rate that has been judged.
        self._judged_epoch = FIRST_EPOCH
        self._bottleneck_bps = 0.0
        self._hold = 0
        self._step = _STEP
        # Whether nobody has ever lost anything.
        self._is_untouched = True

    def report(
        self,
        epoch: Epoch,
        sent_bps: float,
        packets: int,
        losses: Mapping[Hashable, float],
        bursts: Mapping[Hashable, float] | None = None,
    ) -> None:
        if packets < _MIN_PACKETS:
            return
        if self._is_untouched and not any(losses.values()):
            return  # there is nothing to learn from a thousand clients that lose nothing
        self._is_untouched = False
        heard = {
            client: self._of(client).measured(share, packets, (bursts or {}).get(client))
            for client, share in losses.items()
            if share < 1.0
        }
        trial = self._trial
        if trial is not None:
            if epoch < trial.measured[-1].epoch:
                return
            if epoch == self.epoch:
                trial.suspects.difference_update(losses.keys() - heard.keys())
        elif epoch < self._judged_epoch:
            return
        exceeding = self._confirmed(heard)
        measured = _Measured(epoch, sent_bps, heard)
        if epoch == self.epoch:
            self._present(measured, exceeding)
        elif exceeding:
            self._earlier(measured, exceeding)

    def forget(self, client: Hashable) -> None:
        self._clients.pop(client, None)
        self._window.pop(client, None)
        if self._trial is not None:
            self._trial.suspects.discard(client)

    # Reports.

    def _of(self, client: Hashable) -> ClientLoss:
        known = self._clients.get(client)
        if known is None:
            known = self._clients[client] = ClientLoss()
        return known

    def _confirmed(self, losses: _Losses) -> set[Hashable]:
        """The clients that lost too much, and not for the first time.

        What others lost for the first time is taken out: it may be anything.
        """
        confirmed = set()
        for name, loss in list(losses.items()):
            client = self._of(name)
            if not client.exceeds(loss):
                client.suspected = False
            elif client.suspected or self._is_lower(name, loss):
                confirmed.add(name)
            else:
                client.suspected = True
                del losses[name]
        return confirmed

    def _is_lower(self, name: Hashable, loss: Loss) -> bool:
        """Whether less than that was lost at a rate before, in the trial of this client."""
        trial = self._trial
        if trial is None or name not in trial.suspects:
            return False
        before = trial.measured[-1].losses.get(name)
        return before is not None and loss.share < _RISES * before.share

    def _present(self, measured: _Measured, exceeding: set[Hashable]) -> None:
        """Something was measured at the present rate."""
        window = self._window
        for name, loss in measured.losses.items():
            window[name] = loss.plus(window.get(name))
        enough = {name for name, loss in window.items() if self._clients[name].is_enough(loss)}
        if self._trial is not None:
            if enough and self._trial.suspects <= enough:
                self._judge(self._trial, measured.sent_bps)
        elif exceeding:
            self._try(measured, exceeding)
        elif exceeding := self._exceeding(window):
            self._try(measured._replace(losses=dict(window)), exceeding)
        elif 2 * len(enough) >= len(self._clients) > 0:
            self._uncongested(measured.sent_bps)

    def _earlier(self, measured: _Measured, exceeding: set[Hashable]) -> None:
        """Too much was lost of a buffer that left before the last change."""
        trial = self._trial
        if trial is None:
            self._try(measured, exceeding)
            return
        # The later of two measurements of one rate counts: queues are full by then.
        last = trial.measured[-1]
        if measured.sent_bps > _SAME_RATE * last.sent_bps:
            trial.measured[-1] = measured._replace(losses={**last.losses, **measured.losses})
            trial.suspects |= exceeding
            rate_bps = self._below_received(trial)
            if self.rate_bps is None or abs(rate_bps / self.rate_bps - 1) > _SLIGHT:
                self._set(rate_bps)

    # Trials.

    def _try(self, measured: _Measured, suspects: set[Hashable]) -> None:
        self._trial = _Trial(self.rate_bps, measured=[], suspects=set())
        self._go_below(self._trial, measured, suspects)

    def _judge(self, trial: _Trial, sent_bps: float) -> None:
        """Enough is known of the losses at a trial's rate."""
        window = self._window
        exceeding = self._exceeding(window)
        # A base loss that goes away with the rate has never been one.
        fallen = self._let_fall()
        if not exceeding and not fallen:
            self._learn()
            self._settle(trial)
            return
        before = trial.measured[-1].losses
        stays = not fallen and all(
            name in before
            and _STAYS * before[name].share <= window[name].share <= _RISES * before[name].share
            for name in exceeding
        )
        trial.stayed = trial.stayed + 1 if stays else 0
        if trial.stayed == _CONFIRMED:
            for name, loss in window.items():
                client = self._clients[name]
                client.base = loss.share
                if name in exceeding:
                    client.stray = abs(loss.share - before[name].share) / 2
            self._settle(trial)
            return
        self._go_below(trial, _Measured(self.epoch, sent_bps, dict(window)), exceeding)

    def _go_below(self, trial: _Trial, measured: _Measured, exceeding: set[Hashable]) -> None:
        """Try the next lower rate."""
        trial.measured.append(measured)
        trial.suspects |= exceeding
        for name in trial.suspects:
            self._clients[name].suspected = False
        self._set(self._below_received(trial))

    def _settle(self, trial: _Trial) -> None:
        """All base losses are known: what then is left of the losses before?"""
        bottleneck_bps = min(
            (
                measured.sent_bps * self._clients[name].received(measured.losses[name])
                for measured in trial.measured
                for name in self._exceeding(measured.losses) & trial.suspects
            ),
            default=inf,
        )
        self._trial = None
        self._judged_epoch = self.epoch
        rate_bps = trial.rate_bps
        if bottleneck_bps < inf:
            self._bottleneck_bps = bottleneck_bps
            self._hold = _HOLD
            self._step = _STEP
            rate_bps = min(max(bottleneck_bps * _SETTLED, _MIN_RATE_BPS), rate_bps or inf)
        self._set(rate_bps)

    def _below_received(self, trial: _Trial) -> float:
        """The next rate of a trial."""
        last = trial.measured[-1]
        received = min(
            (
                self._clients[name].received(last.losses[name])
                for name in trial.suspects & set(last.losses)
            ),
            default=1.0,
        )
        return max(last.sent_bps * min(received, 1.0) * _TRIAL, _MIN_RATE_BPS)

    # No trial.

    def _uncongested(self, sent_bps: float) -> None:
        if self._hold or self.rate_bps is None:
            # While the rate rises, what the rise costs would be learned as well.
            self._learn()
        self._let_fall()
        self._window = {}
        if self._hold:
            self._hold -= 1
        elif self.rate_bps is not None and sent_bps > _USED * self.rate_bps:
            self._set(self.rate_bps * (1 + self._step))
            if self.rate_bps > _NEAR * self._bottleneck_bps:
                self._step = min(self._step * _GROWTH, _MAX_STEP)

    def _set(self, rate_bps: float | None) -> None:
        self.rate_bps = rate_bps
        self.epoch = Epoch(self.epoch + 1)
        self._window = {}

    # Losses.

    def _learn(self) -> None:
        for name, loss in self._window.items():
            self._clients[name].learn(loss.share)

    def _let_fall(self) -> bool:
        """Lower the base losses that are too high; False when none is."""
        fallen = False
        for name, loss in self._window.items():
            client = self._clients[name]
            if client.falls_short(loss):
                client.base = loss.share
                fallen = True
        return fallen

    def _exceeding(self, losses: _Losses) -> set[Hashable]:
        """Those of the clients that lost more than chance explains."""
        return {
            name
            for name, loss in losses.items()
            if name in self._clients and self._clients[name].exceeds(loss)
        }
