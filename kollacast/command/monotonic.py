"""Durations on a clock that nobody sets.

Twisted's reactors take the time of day for their timers. NTP steps it, and installers have it done
while the image is on its way: a step forward would end every patience at once, and one back would
hold every timer for as long.
"""

from __future__ import annotations

import time
from typing import cast

from twisted.internet.base import DelayedCall, ReactorBase

from kollacast.events.reactor import IMainReactor


def run_on_monotonic_clock(reactor: object) -> IMainReactor:
    """Let Twisted's `reactor` take its seconds from the monotonic clock; waits stay as long.

    Its `seconds` are no time of day any more. They stand still while the host is suspended.
    """
    changed = cast(ReactorBase, reactor)
    before = changed.seconds
    calls = [cast(DelayedCall, call) for call in changed.getDelayedCalls()]
    waits = [(call, call.getTime() - before()) for call in calls]
    changed.seconds = time.monotonic
    for call, left_s in waits:
        call.seconds = time.monotonic
        call.reset(max(left_s, 0.0))
    return cast(IMainReactor, reactor)
