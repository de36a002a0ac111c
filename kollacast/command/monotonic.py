"""Durations on a clock that nobody sets.

Twisted's reactors take the time of day for their timers. NTP steps it, and installers have it done
while the image is on its way: a step forward would end every patience at once, and one back would
hold every timer for as long.
"""

from __future__ import annotations

import time
from typing import Any


def run_on_monotonic_clock(reactor: Any) -> None:
    """Let `reactor` take its seconds from the monotonic clock; timers that are set keep their wait.

    Its `seconds` are no time of day any more. They stand still while the host is suspended.
    """
    before = reactor.seconds
    waits = [(call, call.getTime() - before()) for call in reactor.getDelayedCalls()]
    reactor.seconds = time.monotonic
    for call, left_s in waits:
        call.seconds = time.monotonic
        call.reset(max(left_s, 0.0))
