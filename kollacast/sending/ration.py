"""What goes by TCP to those who fetch while the others are sent to: little, as the link is theirs.

Whoever is not in step has fallen behind by itself, or come late, and finishes behind the others in
any case; in what pauses the multicast makes, and once all is sent, it has the link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: The part of what is multicast that may go by TCP beside it.
_SHARE = 0.02
#: So many bytes of it may be saved up.
_DEPTH = 512 * 1024
#: Seconds between looks, and for which nothing is multicast before that is a pause.
_LOOK_S = 0.01


class Ration:
    """Deals out the link; ``sent()`` is how many bytes have been multicast."""

    def __init__(self, clock: IReactorTime, sent: Callable[[], int]) -> None:
        self._clock = clock
        self._sent = sent
        self._is_sending = False
        self._ended_at = float("-inf")
        self._seen = 0
        self._tokens = 0.0
        self._waiting: deque[tuple[int, Deferred[None]]] = deque()
        self._timer: IDelayedCall | None = None

    def begin(self) -> None:
        """Something is multicast from now on."""
        self._is_sending = True

    def end(self) -> None:
        """It has left."""
        if self._is_sending:
            self._is_sending = False
            self._ended_at = self._clock.seconds()

    @property
    def is_free(self) -> bool:
        """Whether nothing is multicast, and has not been for a moment."""
        return not self._is_sending and self._clock.seconds() - self._ended_at >= _LOOK_S

    def turn(self, size: int) -> Deferred[None]:
        """Fires when ``size`` bytes may go; those who asked first go first.  May be cancelled."""
        if not self._waiting and self._may_go(size):
            return succeed(None)
        turn: Deferred[None] = Deferred(self._forget)
        self._waiting.append((size, turn))
        if self._timer is None:
            self._timer = self._clock.callLater(_LOOK_S, self._look)
        return turn

    def close(self) -> None:
        """Nobody gets anything any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()

    def _may_go(self, size: int) -> bool:
        sent = self._sent()
        self._tokens = min(self._tokens + _SHARE * (sent - self._seen), _DEPTH)
        self._seen = sent
        if self.is_free:
            return True
        if self._tokens < min(size, _DEPTH):
            return False
        self._tokens -= size
        return True

    def _look(self) -> None:
        self._timer = None
        while self._waiting and self._may_go(self._waiting[0][0]):
            self._waiting.popleft()[1].callback(None)
        if self._waiting and self._timer is None:
            self._timer = self._clock.callLater(_LOOK_S, self._look)

    def _forget(self, turn: Deferred[None]) -> None:
        self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
