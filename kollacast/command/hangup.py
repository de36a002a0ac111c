"""A terminal that goes away ends a run as an interrupt does: peers are told, and nothing is left.

Left to the kernel, SIGHUP would kill the process where it stands. Under nohup it is ignored, and
the run goes on; what it has to say then goes nowhere, which does it no harm.
"""

from __future__ import annotations

import signal

from kollacast.events.reactor import IMainReactor


def end_on_hangup(reactor: IMainReactor) -> None:
    """End the run at SIGHUP, and the process by that signal, unless it is ignored."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # What the reactor does at SIGTERM, with the number of this one.
        signal.signal(signal.SIGHUP, reactor.sigTerm)
