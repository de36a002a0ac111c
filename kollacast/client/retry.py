"""Whether and when the server is looked for again, once a connection has been lost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kollacast.client.endings import Lost

#: Seconds until the next attempt; and after a refusal that is only for now.
_RETRY_S = 0.05
_REFUSED_RETRY_S = 1.0
#: Seconds after which a connection on which nothing has begun was one to a server that waited.
_WAIT_S = 10.0


@dataclass(frozen=True)
class Retry:
    """Where the looking stands; times are seconds of the caller's clock."""

    timeout_s: float  #: for which to look, from when there was last reason to hope
    deadline: float
    refused: str | None = None  #: why the server does not let this client in, for now
    bytes_kept: int | None = None  #: of the image, at the last loss

    @classmethod
    def begin(cls, timeout_s: float, now: float) -> Retry:
        """Look for the first time."""
        return cls(timeout_s, now + timeout_s)

    def after(self, lost: Lost, bytes_kept: int | None, now: float) -> Retry:
        """Go on after a loss: all the time anew where the server has been of use, or will be.

        ``bytes_kept`` is None where nothing of the image was ever agreed on.
        """
        refused = lost.refused or (None if lost.has_begun else self.refused)
        # Somebody may have ended a server that waited, and not for the first time; and where
        # something has come since the last loss, this is not for ever.
        is_hopeful = lost.ended is not None or lost.waited_s > _WAIT_S
        is_hopeful = is_hopeful or bytes_kept != self.bytes_kept
        deadline = now + self.timeout_s if is_hopeful else self.deadline
        return replace(self, deadline=deadline, refused=refused, bytes_kept=bytes_kept)

    def delay_s(self, now: float) -> float | None:
        """Seconds until the next attempt; None where the time is over."""
        delay_s = _RETRY_S if self.refused is None else _REFUSED_RETRY_S
        return delay_s if now + delay_s <= self.deadline else None
