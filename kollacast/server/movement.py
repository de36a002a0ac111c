"""When a client last came nearer to the image: nothing else that it says gives it more time.

Questions, requests for nothing and for the same again are no movement, however many there are.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

#: For each packet that a client may have asked for at a time, so many may be sent to it again
#: before it has to have finished a buffer.
_RESENT = 2


class Movement:
    """One client's, on one connection."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._at = 0.0
        self._answers = 0
        self._resent = 0
        self._fetched = 0

    def moved(self) -> None:
        """It has come in, or has said something that it says once."""
        self._at = self._clock.seconds()

    def answered(self, answers: int) -> None:
        """So many of its answers, in all, have been due."""
        if answers != self._answers:
            self._answers = answers
            self._resent = 0
            self.moved()

    def resent(self, packets: int, max_request: int) -> None:
        """It has taken so many packets that it had asked for, of ``max_request`` at the most."""
        self._resent += packets
        if self._resent <= _RESENT * max_request:
            self.moved()

    def fetched(self, end: int) -> None:
        """It has taken what it had fetched, up to the seq before ``end``."""
        if end > self._fetched:
            self._fetched = end
            self.moved()

    @property
    def still_s(self) -> float:
        """Seconds for which it has not moved."""
        return self._clock.seconds() - self._at
