"""What is said of connections: line by line where they are few, summed up where they are many."""

from __future__ import annotations

from collections import Counter

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kollacast.events.bucket import Bucket

_log = Logger()

#: Lines at once, beside a few for each client that is expected, and a second.
_LINES = 64
_LINES_A_CLIENT = 4
_LINES_A_SECOND = 1.0
#: Seconds until what was not said is summed up: the first time, and at the most.
_FIRST_S = 1.0
_MOST_S = 60.0
#: Addresses that a sum names, and that are told apart.
_MOST_NAMES = 3
_MOST_ADDRESSES = 1024


class CrowdLog:
    """Which lines about the connections of a session of so many ``clients`` are written."""

    def __init__(self, clock: IReactorTime, clients: int) -> None:
        self._clock = clock
        self._lines = Bucket(_LINES_A_CLIENT * clients + _LINES, _LINES_A_SECOND)
        # Connections of which nothing was said, by address; those of more addresses under "".
        self._silent: Counter[str] = Counter()
        # Other lines that were not said.
        self._unsaid = 0
        self._interval_s = _FIRST_S
        self._began_at = 0.0
        self._timer: IDelayedCall | None = None

    def may_say(self, stranger: str | None = None) -> bool:
        """Whether a line may be written; else it is counted.

        It is about a client, or about a connection from the address ``stranger``, which has never
        been one.
        """
        if self._lines.take(self._clock.seconds()):
            return True
        if stranger is not None:
            self.closed(stranger)
        else:
            self._unsaid += 1
            self._await_sum()
        return False

    def closed(self, address: str) -> None:
        """A connection from there was closed as soon as it came."""
        is_told_apart = address in self._silent or len(self._silent) < _MOST_ADDRESSES
        self._silent[address if is_told_apart else ""] += 1
        self._await_sum()

    def close(self) -> None:
        """Sum up what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._sum_up()

    def _await_sum(self) -> None:
        if self._timer is None:
            self._began_at = self._clock.seconds()
            self._timer = self._clock.callLater(self._interval_s, self._sum_up)

    def _sum_up(self) -> None:
        self._timer = None
        seconds = max(self._clock.seconds() - self._began_at, _FIRST_S)
        # Of what goes on and on it is told less and less often.
        self._interval_s = min(2 * self._interval_s, _MOST_S)
        named = self._silent.most_common(_MOST_NAMES)
        for address, count in named:
            _log.warn(
                "{rate} connections a second from {address}, none said hello",
                event="connections-summed",
                rate=f"{count / seconds:,.0f}" if count >= seconds else f"{count / seconds:.1g}",
                address=address or "many addresses",
            )
        others = self._silent.total() - sum(count for _, count in named)
        if others:
            _log.warn(
                "{others} connections from {addresses} other addresses, none said hello",
                event="connections-summed",
                others=f"{others:,}",
                addresses=len(self._silent) - len(named),
            )
        if self._unsaid:
            _log.warn(
                "{lines} lines about clients are left out",
                event="lines-left-out",
                lines=f"{self._unsaid:,}",
            )
        self._silent.clear()
        self._unsaid = 0
