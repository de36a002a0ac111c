"""How fast multicast may leave: a token bucket on the given clock."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

#: What leaves in one go takes this long at the rate: twice the granularity of
#: the reactor's timers.
_BURST_S = 0.002
#: For so long tokens are saved up, to keep the rate on a busy machine.  It is
#: short beside the queue of a switch's port.
_DEPTH_S = 0.010


class Pacer:
    """Lets :attr:`rate_bps` bits a second leave, or everything when it is None.

    Bits are those of whole IP datagrams.  Who sends asks :meth:`delay_s`
    first and then tells what it :meth:`sent`; what leaves by another way
    along the same link may be told too, and multicast then makes room for it.
    """

    def __init__(self, clock: IReactorTime, rate_bps: float | None) -> None:
        self._clock = clock
        self._free_at = clock.seconds()
        self.rate_bps = rate_bps

    def delay_s(self) -> float:
        """Seconds until something may leave; 0 when it may now."""
        if self.rate_bps is None:
            return 0.0
        return max(self._free_at - self._clock.seconds(), 0.0)

    def burst_bytes(self) -> float:
        """How much should leave in one go, so that queues on the way stay short."""
        return float("inf") if self.rate_bps is None else self.rate_bps / 8 * _BURST_S

    def sent(self, size: int) -> None:
        """``size`` bytes have left, headers included."""
        if self.rate_bps is not None:
            start = max(self._free_at, self._clock.seconds() - _DEPTH_S)
            self._free_at = start + size * 8 / self.rate_bps
