"""What the log becomes on standard error: one line for each event that an operator needs.

These are kollacast's own lines and everybody's warnings and errors. With the environment variable
``KOLLACAST_DEBUG`` set it is every event, and errors with their tracebacks.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback

from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from kollacast.command.streams import Console, console

#: Names `stderr_observer` for twistd's ``--logger`` option.
STDERR_OBSERVER = "kollacast.command.logs.stderr_observer"

_log = Logger()


def is_debugging() -> bool:
    """Whether the one who runs this wants to see everything."""
    return bool(os.environ.get("KOLLACAST_DEBUG"))


def announce(line: str) -> None:
    """Tell the operator: on standard error at once, and in the log wherever that goes."""
    console.write_line(line)
    _log.info("{line}", line=line, kollacast_announced=True)


def stderr_observer() -> StderrObserver:
    """Make the log observer of a program that runs in the foreground."""
    return StderrObserver(console, is_debugging())


@implementer(ILogObserver)
class StderrObserver:
    """Writes events to a console."""

    def __init__(self, to: Console, debugging: bool) -> None:
        self._console = to
        self._debugging = debugging

    def __call__(self, event: LogEvent) -> None:
        if event.get("kollacast_announced"):
            return
        if not (self._debugging or _concerns_an_operator(event)):
            return
        self._console.write_line(_text_of(event))
        failure = _failure_of(event)
        if self._debugging and failure is not None:
            self._console.write(failure.getTraceback())


def _concerns_an_operator(event: LogEvent) -> bool:
    namespace: str = event.get("log_namespace", "")
    level = event.get("log_level", LogLevel.info)
    if "warning" in event and namespace == "twisted.logger._global":
        return False  # the warnings module speaks to developers
    failure = _failure_of(event)
    if failure is not None and failure.check(ReactorNotRunning):
        return False  # a second signal while the first is being obeyed
    if namespace.partition(".")[0] == "kollacast":
        return bool(level >= LogLevel.info)
    return bool(level >= LogLevel.warn)


def _failure_of(event: LogEvent) -> Failure | None:
    failure: Failure | None = event.get("log_failure") or event.get("failure")
    return failure


def _text_of(event: LogEvent) -> str:
    failure = _failure_of(event)
    if failure is None:
        return formatEvent(event)
    if "failure" in event:  # of the old log module, whose text is the traceback
        text = event.get("why") or "unexpected error"
    else:
        text = (formatEvent(event).strip() or "unexpected error").splitlines()[0]
    return f"{text.rstrip(':')}: {type(failure.value).__name__}: {failure.getErrorMessage()}"


def shorten_crashes() -> None:
    """Have Python report an uncaught exception in one line.

    Between the command line and the running reactor that is what an interrupt is, too.
    """

    def report(value: BaseException) -> None:
        if isinstance(value, KeyboardInterrupt):
            console.write_line("interrupted")
        else:
            console.write_line(f"{type(value).__name__}: {value}")
        if is_debugging():
            console.write("".join(traceback.format_exception(value)))

    def of_a_thread(crash: threading.ExceptHookArgs) -> None:
        if crash.exc_value is not None and not isinstance(crash.exc_value, SystemExit):
            report(crash.exc_value)

    sys.excepthook = lambda kind, value, where: report(value)
    threading.excepthook = of_a_thread
