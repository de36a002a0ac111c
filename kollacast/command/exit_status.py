"""The exit status of a process that twistd runs.

twistd has no notion of one: when the reactor has stopped, its ``run`` cleans up (log, pid file)
and returns, and the process ends with 0. An exception raised inside the reactor to say otherwise
would be printed as a crash and swallowed. So the status is put in at the last moment that Python
offers: an exit handler, which runs after twistd is through and every thread has ended. It has all
other exit handlers run first, flushes, and ends the process.

A process that twistd ends by a signal (after SIGINT, SIGTERM) dies of that signal instead.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress

from kollacast.operator.outcome import Status


def end_process_with(status: Status) -> None:
    """Have the process end with `status` once twistd has finished its work.

    A good end goes the same way: to take an interpreter down piece by piece costs time.
    """
    atexit.register(_leave, status)


def _leave(status: Status) -> None:
    # The last to register is the first to run. What the others have to do is done before the end.
    atexit.unregister(_leave)
    atexit._run_exitfuncs()
    for stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
    os._exit(int(status))
