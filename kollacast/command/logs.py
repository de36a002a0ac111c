"""What the log becomes on standard error: one line for each event that an operator needs.

These are kollacast's own lines and everybody's warnings and errors. With the environment variable
``KOLLACAST_DEBUG`` set it is every event, and errors with their tracebacks. Lines are text, or JSON
where that is asked for (`write_as`), on standard error as well as in the file of a daemon.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from constantly import NamedConstant
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from twisted.python.logfile import LogFile
from zope.interface import implementer

from kollacast.command.log_lines import Context, failure_of, json_of, text_of
from kollacast.command.streams import Console, console, one_line

#: Name the observers below for twistd's ``--logger`` option.
STDERR_OBSERVER = "kollacast.command.logs.stderr_observer"
FILE_OBSERVER = "kollacast.command.logs.file_observer"

_log = Logger()
_context = Context()
_is_json = False
#: Of a daemon that writes JSON.
_path = "twistd.log"


def is_debugging() -> bool:
    """Whether the one who runs this wants to see everything."""
    return bool(os.environ.get("KOLLACAST_DEBUG"))


def write_as(log_format: str, program: str, host: str | None, path: str | None) -> None:
    """From now on write each line as text or as JSON: whatever is told, by ``program``.

    ``host`` is that of all events, None where each names its own; ``path`` is that of the file in
    the place of ``twistd.log``.
    """
    global _is_json, _path
    _is_json = log_format == "json"
    _path = path or _path
    _context.program, _context.host = program, host
    console.render = _as_json if _is_json else console.as_text


def tell_session(session: Callable[[], str | None]) -> None:
    """Lines of JSON name the session that this returns."""
    _context.session = session


def announce(event: str, line: str, level: NamedConstant = LogLevel.info) -> None:
    """Tell the operator: on standard error at once, and in the log wherever that goes."""
    console.write_whole(_line(_made(event, line, level), console))
    _log.emit(level, "{line}", event=event, line=line, kollacast_announced=True)


def stderr_observer() -> StderrObserver:
    """Make the log observer of a program that runs in the foreground."""
    return StderrObserver(console, is_debugging())


def file_observer() -> FileObserver:
    """Make the log observer of a daemon that writes JSON."""
    observer = FileObserver(_path, is_debugging())
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda *_: observer.rotate())
    return observer


@implementer(ILogObserver)
class StderrObserver:
    """Writes events to a console."""

    def __init__(self, to: Console, debugging: bool) -> None:
        self._console = to
        self._debugging = debugging

    def __call__(self, event: LogEvent) -> None:
        if event.get("kollacast_announced"):
            return
        if not (self._debugging or concerns_an_operator(event)):
            return
        self._console.write_whole(_line(event, self._console, self._debugging))
        failure = failure_of(event)
        if self._debugging and failure is not None and not _is_json:
            self._console.write(failure.getTraceback())


@implementer(ILogObserver)
class FileObserver:
    """Writes events as JSON to a file that twistd would write text to, and changes it as that does.

    A disk that is full costs lines, and nothing else.
    """

    def __init__(self, path: str, debugging: bool) -> None:
        self._file = LogFile.fromFullPath(path)
        self._debugging = debugging
        self._is_rotating = False

    def rotate(self) -> None:
        """Go on in a new file with the next line; may be called by a signal's handler."""
        self._is_rotating = True

    def __call__(self, event: LogEvent) -> None:
        if not (self._debugging or concerns_an_operator(event)):
            return
        line = json_of(event, _context, traceback=True)
        try:
            if self._is_rotating:
                self._is_rotating = False
                self._file.rotate()
            self._file.write(line + "\n")
            self._file.flush()
        except (OSError, ValueError):
            pass  # where it would be said is what fails


def concerns_an_operator(event: LogEvent) -> bool:
    """Whether an event is worth a line without debugging."""
    namespace: str = event.get("log_namespace", "")
    level = event.get("log_level", LogLevel.info)
    if "warning" in event and namespace == "twisted.logger._global":
        return False  # the warnings module speaks to developers
    failure = failure_of(event)
    if failure is not None and failure.check(ReactorNotRunning):
        return False  # a second signal while the first is being obeyed
    if namespace.partition(".")[0] == "kollacast":
        return bool(level >= LogLevel.info)
    return bool(level >= LogLevel.warn)


def _line(event: LogEvent, to: Console, debugging: bool = False) -> str:
    if _is_json:
        return json_of(event, _context, traceback=debugging)
    return to.as_text(text_of(event))


def _as_json(text: str) -> str:
    """What is told without an event: of the command line, or of a crash."""
    return json_of(_made("stopped", one_line(text), LogLevel.error), _context)


def _made(event: str, line: str, level: NamedConstant) -> LogEvent:
    """An event that goes to nobody."""
    made: list[LogEvent] = []
    observer: Any = made.append
    Logger("kollacast", observer=observer).emit(level, "{line}", event=event, line=line)
    return made[0]


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
