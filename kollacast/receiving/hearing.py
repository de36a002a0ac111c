"""Whether multicast reaches this host, by what has come of the buffers that were sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.logger import Logger

from kollacast.receiving.flight import Flight
from kollacast.receiving.tally import Tally

_log = Logger()

#: So many buffers in a row, each of at least so many packets, are not lost by chance.
_UNHEARD = 2
_MANY_PACKETS = 64


@dataclass(slots=True)
class Silence:
    """Buffers in a row of which nothing came."""

    since: int  #: the first one's id
    is_new: bool  #: whether something has come before them
    in_flight_id: int  #: of the last buffer that was announced when the first one was missed
    buffers: int = 0  #: how many of them count
    packets: int = 0  #: of all of them


class Hearing:
    """What has come over one connection, as ``tally`` counts it."""

    def __init__(self, tally: Tally) -> None:
        #: Called when buffers go by of which no datagram has come.
        self.silent: Callable[[Silence], None] = lambda silence: None
        #: Called when a buffer has brought nothing: the host should join the group anew.
        self.renew: Callable[[], None] = lambda: None
        self._tally = tally
        self._silence: Silence | None = None
        self._came_before = _came(tally)
        self._damaged_before = tally.damaged

    def sent(self, flight: Flight, last_id: int) -> None:
        """A buffer was sent, and ``last_id`` was announced last: has anything of it come?"""
        tally, buffer = self._tally, flight.buffer
        damaged, self._damaged_before = self._damaged_before, tally.damaged
        if buffer is None:
            return
        packets = flight.ctl.pkt_count
        if buffer.missing_count < packets or damaged < tally.damaged or flight.refuted:
            if self._silence is not None and self._silence.buffers >= _UNHEARD:
                _log.info(
                    "multicast reaches this host again",
                    event="host-reached-again",
                    buffer=flight.ctl.buffer_id,
                )
            self._silence = None
            return
        if packets < _MANY_PACKETS:
            return
        silence = self._silence
        if silence is None:
            is_new = _came(tally) > self._came_before
            silence = self._silence = Silence(flight.ctl.buffer_id, is_new, last_id)
            self.renew()
        silence.packets += packets
        # A link that was down for a moment costs as many buffers as were under way, and no more.
        if silence.is_new and flight.ctl.buffer_id <= silence.in_flight_id:
            return
        silence.buffers += 1
        if silence.buffers == _UNHEARD:
            self.silent(silence)


def _came(tally: Tally) -> int:
    """How many datagrams have come."""
    return tally.placed + tally.repeated + tally.damaged
