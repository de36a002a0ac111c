"""What the kernel refuses to send: how long it is tried again, and what is said of it.

A short outage (a lease that is renewed, a link that goes down and up) is waited for, with pauses. A
lasting one is not: from then on whatever is refused counts as lost at once, and goes by TCP like
all that is lost, until the kernel takes something again.
"""

from __future__ import annotations

import errno

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

_log = Logger()

#: Seconds between attempts: the first, and the longest; each is twice the one before.
_FIRST_S = 0.010
_LONGEST_S = 0.100
#: Seconds for which what is refused is tried again.  The C clients of the jasmine dialect wait for
#: 5 s between READY and SENT.
PATIENCE_S = 3.0
#: A full queue is no news for so many seconds.
_FULL_S = 0.5
_FULL = (errno.ENOBUFS, errno.ENOMEM)
#: Seconds for which the same refusal is not said again, however often it comes and goes.
_QUIET_S = 60.0


class Outage:
    """Counts refusals from the first one to the next success, on ``clock``."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        #: Whether the kernel has refused what it was given last.
        self.is_on = False
        self._began_at = 0.0
        self._pause_s = 0.0
        self._is_said = False
        self._said_at: dict[int | None, float] = {}

    def refused(self, error: OSError) -> float | None:
        """Seconds until the next attempt; None when it has lasted too long, and this is lost."""
        now = self._clock.seconds()
        if not self.is_on:
            self.is_on = True
            self._began_at = now
            self._pause_s = _FIRST_S / 2
            self._is_said = False
        lasted_s = now - self._began_at
        if lasted_s >= PATIENCE_S:
            return None
        self._pause_s = min(2 * self._pause_s, _LONGEST_S)
        return self._pause_s

    def is_news(self, error: OSError) -> bool:
        """Whether this refusal should be said: once for each kind and outage."""
        now = self._clock.seconds()
        if error.errno in _FULL and now - self._began_at < _FULL_S:
            return False
        said_at = self._said_at.get(error.errno)
        return said_at is None or not (self._is_said or now - said_at < _QUIET_S)

    def say(self, error: OSError, why: str) -> None:
        """Say it, with cause and remedy."""
        self._said_at[error.errno] = self._clock.seconds()
        self._is_said = True
        _log.warn(
            "the kernel refuses to multicast: {why}. Trying again; what does not get out goes by"
            " TCP",
            event="multicast-refused",
            why=why,
        )

    def passed(self) -> None:
        """The kernel has taken something again."""
        self.is_on = False
        if self._is_said:
            _log.info(
                "multicast leaves again, after {seconds:.1f} s",
                event="multicast-leaves-again",
                seconds=self._clock.seconds() - self._began_at,
            )
