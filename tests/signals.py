"""What the processes of a test inherit of signals: what a job in the foreground has.

Whoever starts the tests may have had signals ignored or blocked: a shell without job control has
SIGINT ignored in what it starts in the background, nohup SIGHUP, other supervisors more. A child
inherits it, and a test that interrupts one would wait for ever.
"""

from __future__ import annotations

import signal

#: Python itself ignores these; whoever starts a child has them set right there.
_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)


def have_children_hear_signals() -> None:
    """Have every child from now on begin with the usual dispositions, and with no signal blocked.

    This process itself goes on taking no notice of the signals that it was to ignore.
    """
    for number in signal.valid_signals() - set(_PYTHONS_OWN):
        if signal.getsignal(number) is signal.SIG_IGN:
            # a signal that is handled is none that is ignored to the program that exec starts
            signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _ignore(_number: int, _frame: object) -> None:
    pass
