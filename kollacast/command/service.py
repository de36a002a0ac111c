"""The life of one run under twistd: start, show, end, and tell the truth about it."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from constantly import NamedConstant
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from kollacast.command.exit_status import end_process_with
from kollacast.command.logs import announce, tell_session
from kollacast.command.progress import Display, ProgressWatch, choose_display
from kollacast.command.streams import console
from kollacast.events.reactor import IMainReactor
from kollacast.files.atomic_file import AtomicFile
from kollacast.files.fdio import write_all
from kollacast.files.path_text import path_text
from kollacast.operator.config import Config
from kollacast.operator.outcome import Outcome, Progress, Status

#: How long an interrupted run may take to tell its peers and end by itself.
INTERRUPT_S = 5.0

#: How a run has ended, as a log says it; an error otherwise.
_LEVELS = {Status.OK: LogLevel.info, Status.PARTIAL: LogLevel.warn}

_log = Logger()


class Program(Protocol):
    """What the server and the client have in common."""

    @property
    def session(self) -> str | None:
        """What tells this session from all others, as far as that is known."""

    def run(self) -> Deferred[Outcome]:
        """Do the work; fires once, with how it went, and never fails."""

    def progress(self, most_hosts: int = 0) -> Progress:
        """How far it is now, and so many of the slowest hosts where it knows of any."""

    def interrupt(self, reason: str) -> Deferred[None]:
        """Tell the peers why and end the run early."""


class Page(Protocol):
    """Where others watch the run."""

    def start(self) -> None:
        """Be there from now on; raises OSError where it cannot."""

    def end(self, outcome: Outcome, *, at_once: bool) -> Deferred[None]:
        """Show how it went; fires once the process may end."""


class Announce(Protocol):
    """Tells the operator of an event in one line."""

    def __call__(self, event: str, line: str, level: NamedConstant = LogLevel.info) -> None: ...


@dataclass(frozen=True)
class Running:
    """A program that runs, and what it holds open."""

    program: Program
    release: Callable[[], None]  #: gives it back, from any state, and wakes a thread that waits
    start_now: Callable[[], None] | None = None  #: begins with those who came, where that is a word
    page: Page | None = None


@dataclass(eq=False)
class KollacastService(Service):
    """Makes one run, and stops the reactor when it is over.

    `_prepare` is called once the reactor runs; what it raises ends the run, in one line.
    """

    _reactor: IReactorCore
    _clock: IReactorTime
    _prepare: Callable[[], Running]
    _display: Display
    _announce: Announce
    _end_process_with: Callable[[Status], None]
    _report_path: str | None = None
    _running: Running | None = field(default=None, init=False)
    _watch: ProgressWatch | None = field(default=None, init=False)
    # made when somebody waits for the end
    _over: Deferred[None] | None = field(default=None, init=False)
    _is_over: bool = field(default=False, init=False)
    _is_stopping: bool = field(default=False, init=False)

    def startService(self) -> None:
        """Begin as soon as the reactor runs: from then on it hears signals."""
        super().startService()
        # What is loaded by now stays to the end; a collection need not look at it again.
        gc.freeze()
        self._reactor.callWhenRunning(self._begin)

    def stopService(self) -> Deferred[None] | None:
        """Interrupt a run that is not over; fires when it is, or `INTERRUPT_S` later."""
        super().stopService()
        self._is_stopping = True
        if self._is_over or self._running is None:
            return None
        self._over = Deferred()
        patience = self._clock.callLater(
            INTERRUPT_S,
            self._end,
            Outcome(Status.FAILED, f"interrupted, and not ended within {INTERRUPT_S:g} s"),
        )
        over = self._over.addCallback(lambda _: patience.cancel() if patience.active() else None)
        maybeDeferred(self._running.program.interrupt, "interrupted").addErrback(
            lambda failure: _log.failure("while interrupting", failure, event="ending-failed")
        )
        self._release()
        return over

    def start_now(self) -> None:
        """Begin with those who came: what an operator asks for by a signal."""
        if self._running is not None and self._running.start_now is not None and not self._is_over:
            self._running.start_now()

    def _begin(self) -> None:
        if self._is_stopping:
            return
        # Whatever is raised here, the reactor would log and forget, and do nothing for ever.
        try:
            self._running = self._prepare()
            if self._running.page is not None:
                self._running.page.start()
            ending = maybeDeferred(self._running.program.run)
            self._watch = ProgressWatch(self._clock, self._running.program.progress, self._display)
            if not ending.called:
                self._watch.start()
        except OSError as error:
            self._end(Outcome(Status.FAILED, describe(error)))
        except Exception:
            self._end(self._unexpected(Failure()))
        else:
            ending.addErrback(self._unexpected).addCallback(self._end)

    def _unexpected(self, failure: Failure) -> Outcome:
        _log.failure("unexpected error", failure, event="program-error")
        why = failure.getErrorMessage() or repr(failure.value)
        return Outcome(Status.FAILED, f"gave up: {why}")

    def _end(self, outcome: Outcome) -> None:
        """The run is over; nothing that fails on the way keeps the process from ending."""
        if self._is_over:
            return
        self._is_over = True
        try:
            if self._watch is not None:
                self._watch.stop()
            self._release()
            status = self._report(outcome)
            for finding in outcome.findings:
                self._announce("diagnosis", f"diagnosis: {finding}", LogLevel.warn)
            self._announce("outcome", outcome.line, _LEVELS.get(outcome.status, LogLevel.error))
        except Exception:
            _log.failure("while ending", event="ending-failed")
            status = outcome.status or Status.FAILED
        self._end_process_with(status)
        self._end_page(outcome).addBoth(lambda _: self._leave())

    def _end_page(self, outcome: Outcome) -> Deferred[None]:
        if self._running is None or self._running.page is None:
            return succeed(None)
        page = self._running.page
        ending: Deferred[None] = maybeDeferred(page.end, outcome, at_once=self._is_stopping)
        return ending.addErrback(
            lambda failure: _log.failure("while ending the page", failure, event="status-failed")
        )

    def _leave(self) -> None:
        if self._over is not None:
            self._over.callback(None)
        if not self._is_stopping:
            try:
                self._reactor.stop()
            except ReactorNotRunning:
                pass  # a signal has been quicker

    def _report(self, outcome: Outcome) -> Status:
        """Write the report that was asked for; return the status that is true after that."""
        try:
            if self._report_path is not None:
                write_report(self._report_path, outcome)
        except Exception as error:
            line = f"the report was not written: {describe(error)}"
            self._announce("report-not-written", line, LogLevel.error)
            return outcome.status or Status.FAILED
        return outcome.status

    def _release(self) -> None:
        try:
            if self._running is not None:
                self._running.release()
        except Exception:
            _log.failure("cannot give back what the run held open", event="ending-failed")


def service_of(
    reactor: IMainReactor, config: Config, prepare: Callable[[], Running]
) -> KollacastService:
    """The service of the process's one run, shown and ended as `config` asks for."""
    display = choose_display(
        config.progress_mode, console, reactor, lambda line: announce("progress", line)
    )

    def prepared() -> Running:
        running = prepare()
        tell_session(lambda: running.program.session)
        return running

    return KollacastService(
        reactor, reactor, prepared, display, announce, end_process_with, config.report_path
    )


def write_report(path: str, outcome: Outcome) -> None:
    """Write `outcome` as JSON to `path`, whole or not at all.

    Raises OSError, and ValueError for what JSON has no word for.
    """
    report = {"exit_status": int(outcome.status), "message": outcome.line, **outcome.report}
    text = json.dumps(report, indent=2, allow_nan=False, default=str) + "\n"
    file = AtomicFile(path)
    try:
        with file.descriptor() as fd:
            write_all(fd, [memoryview(text.encode())], False, file.is_off)
        file.commit()
    finally:
        file.abandon()


def describe(error: Exception) -> str:
    """One line about `error`, with its file where there is one."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    filename = getattr(error, "filename", None)
    if isinstance(filename, (str, bytes)) and filename:
        return f"{path_text(filename)}: {reason}"
    return reason
