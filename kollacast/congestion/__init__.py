"""How fast multicast leaves: an interface, a file for each way, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable

from kollacast.congestion.control import CongestionControl, FixedRate
from kollacast.congestion.trials import Trials

__all__ = ["CongestionControl", "choose"]

#: The ways to find a rate, by name.
_WAYS: dict[str, Callable[[], CongestionControl]] = {"trials": Trials}


def choose(rate_bps: float | None, way: str = "trials") -> CongestionControl:
    """The control that keeps to ``rate_bps``; for None the one that finds a rate this ``way``."""
    return _WAYS[way]() if rate_bps is None else FixedRate(rate_bps)
