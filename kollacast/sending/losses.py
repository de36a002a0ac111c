"""What each client lost of one buffer, and who is told: the rate control, and the forecast.

A request tells it, or the credit that closes the buffer.  One that comes behind parity which nobody
has asked for tells only what that did not mend.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, Protocol, TypeVar

from kollacast.congestion import CongestionControl
from kollacast.packets.losses import Lost
from kollacast.repair.forecast import Forecast
from kollacast.sending.reach import Listener, Reach
from kollacast.sending.window import Flight


class Loser(Hashable, Protocol):
    """A client that may have lost something."""

    decodes: bool

    @property
    def client(self) -> Listener: ...


_L = TypeVar("_L", bound=Loser)


class Losses(Generic[_L]):
    """Of the buffer of ``flight``, which ``clients`` were to receive."""

    def __init__(
        self,
        flight: Flight,
        clients: Collection[_L],
        control: CongestionControl,
        reach: Reach,
        forecast: Forecast,
    ) -> None:
        self.unheard: set[_L] = set(clients)  #: who has said nothing of it yet
        self.is_reported = False
        self._flight = flight
        self._control = control
        self._reach = reach
        self._forecast = forecast
        # What each client lost that nobody knows of; not in how many runs, where they are 0.
        self._lost: dict[_L, Lost] = {}

    def asked(self, client: _L, lost: Lost) -> None:
        """The first that ``client`` says of it: it lacks that."""
        flight = self._flight
        packets, rows = flight.buffer.ctl.pkt_count, flight.ahead.count
        if rows:
            # As much beside as it has solved for: as many packets as have come of the parity.
            share = min((lost.packets + rows) / (packets + rows), 1.0)
            lost = Lost(max(round(share * packets), lost.packets), 0)
        self._hear(client, lost)

    def closed(self, client: _L, lost: Lost) -> None:
        """``client`` has all of it now, and had lost that."""
        if client in self.unheard:
            self._hear(client, lost)

    def left(self, client: _L) -> None:
        """``client`` is out."""
        self._lost.pop(client, None)
        if client in self.unheard:
            self.unheard.discard(client)
            self._report_if_all()

    def report(self) -> None:
        """Tell what is known; of whoever is heard of later, once all are."""
        self.is_reported = True
        flight, lost = self._flight, self._lost
        if flight.has_left and lost:
            packets = flight.buffer.ctl.pkt_count
            self._forecast.heard(packets, [n for client, (n, _) in lost.items() if client.decodes])
            if flight.sent_bps:
                losses: dict[Hashable, float] = {c: n / packets for c, (n, _) in lost.items()}
                bursts: dict[Hashable, float] = {c: n / r for c, (n, r) in lost.items() if r}
                self._control.report(flight.epoch, flight.sent_bps, packets, losses, bursts)
        self._lost = {}

    def _hear(self, client: _L, lost: Lost) -> None:
        self.unheard.discard(client)
        self._lost[client] = lost
        if self._flight.has_left:
            ctl = self._flight.buffer.ctl
            client.client.lacked(lost.packets, ctl.pkt_count)
            self._reach.answered(client.client, lost.packets, ctl)
        self._report_if_all()

    def _report_if_all(self) -> None:
        if self.is_reported and not self.unheard:
            self.report()
