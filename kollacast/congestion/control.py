"""What the server needs of a congestion control, and the one that has nothing to find."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NewType, Protocol

#: The time between two changes of the rate: handed out by the control, carried by each buffer
#: from when it begins to leave, given back with what was lost of it, and looked into by nobody.
Epoch = NewType("Epoch", int)
FIRST_EPOCH = Epoch(0)


class CongestionControl(Protocol):
    """The rate at which multicast may leave, from what clients say that they lost."""

    @property
    def rate_bps(self) -> float | None:
        """Bits a second, IP headers included; None means unlimited."""

    @property
    def epoch(self) -> Epoch:
        """The present one."""

    def report(
        self,
        epoch: Epoch,
        sent_bps: float,
        packets: int,
        losses: Mapping[Hashable, float],
        bursts: Mapping[Hashable, float] | None = None,
    ) -> None:
        """A buffer of ``packets`` left at ``sent_bps``; ``losses`` has clients' shares.

        It began to leave in ``epoch``.  ``bursts`` says how many packets they lost at a time, on
        the average, where that is not 1.  One buffer may be reported in several parts, with
        different clients.
        """

    def forget(self, client: Hashable) -> None:
        """``client`` has left, and is not heard of any more."""


class FixedRate:
    """The rate that an operator has given, whatever is lost."""

    epoch = FIRST_EPOCH

    def __init__(self, rate_bps: float) -> None:
        self.rate_bps = rate_bps

    def report(self, *args: object, **kwargs: object) -> None:
        """Nothing follows from it."""

    def forget(self, client: Hashable) -> None:
        """Nothing is known of it."""
