"""Showing how far a run is: the last lines of a terminal, or a line every few seconds elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from kollacast.command.amounts import amount, duration
from kollacast.command.streams import Console
from kollacast.command.terminal import Screen, can_draw
from kollacast.command.view import MOST_HOSTS, View
from kollacast.operator.outcome import Progress

_LOOK_S = 0.5  # between two looks at the run
_LONGEST_S = 2.0  # the same where a look takes long
_LINE_S = 5.0  # between two lines while nothing but bytes moves
_MOST_SHARE = 0.01  # of the time may go into looking: a thousand hosts are a lot to look at

_log = Logger()


class Display:
    """Shows one moment after another; this one nothing, for those who want no progress shown."""

    #: How many of the slowest hosts it shows, of a run that has some.
    most_hosts = 0

    def show(self, progress: Progress) -> None:
        """Show the run as it is now."""

    def close(self, progress: Progress) -> None:
        """Show the run as it is now, if that is still worth it, and nothing more after it."""


class Bar(Display):
    """The last lines of a terminal; lines of the log pass above them."""

    most_hosts = MOST_HOSTS

    def __init__(self, console: Console, clock: IReactorTime) -> None:
        self._clock = clock
        self._encoding = console.encoding
        self._screen = Screen(console)
        self._view: View | None = None
        self._was_looked_at = False

    def show(self, progress: Progress) -> None:
        # A run that is over by the next look is worth no drawing, nor the time to begin with it.
        if not self._was_looked_at:
            self._was_looked_at = True
            return
        if self._view is None:
            self._view = View(self._encoding)
        columns, _rows = self._screen.size()
        self._screen.draw(self._view.lines(progress, self._clock.seconds(), columns))

    def close(self, progress: Progress) -> None:
        if self._view is not None:
            self.show(progress)
        self._screen.close()


class Lines(Display):
    """A line at every new phase, and every few seconds within one; how it ended, another says."""

    def __init__(self, clock: IReactorTime, emit: Callable[[str], None]) -> None:
        self._clock = clock
        self._emit = emit
        self._last: Progress | None = None  # that a line was written about
        self._last_s = 0.0

    def show(self, progress: Progress) -> None:
        now_s = self._clock.seconds()
        if self._last is not None and progress.phase == self._last.phase:
            if now_s - self._last_s < _LINE_S:
                return
        self._emit(self._line(progress, now_s))
        self._last, self._last_s = progress, now_s

    def _line(self, progress: Progress, now_s: float) -> str:
        parts = [_amount(progress)]
        if self._last is not None and now_s - self._last_s >= _LOOK_S:
            rate = (progress.bytes_done - self._last.bytes_done) / (now_s - self._last_s)
            if rate > 0:
                parts.append(f"{amount(rate)}/s")
                if progress.bytes_total:
                    left_s = (progress.bytes_total - progress.bytes_done) / rate
                    parts.append(f"{duration(left_s)} left")
        return f"{progress.phase}: " + ", ".join([*parts, *_companions(progress)])


def choose_display(
    mode: str, console: Console, clock: IReactorTime, emit: Callable[[str], None]
) -> Display:
    """The display for a value of ``--progress``; `emit` takes what is shown in lines."""
    if mode == "none":
        return Display()
    if mode in ("bar", "auto") and can_draw(console):
        return Bar(console, clock)
    return Lines(clock, emit)


class ProgressWatch:
    """Keeps a display up to date from `start` to `stop`."""

    def __init__(
        self, clock: IReactorTime, look: Callable[[int], Progress], display: Display
    ) -> None:
        self._clock = clock
        self._display = display
        self._look = look
        self._not_before = 0.0
        self._loop = LoopingCall(self._show_if_due)
        self._loop.clock = clock

    def start(self) -> None:
        """Look now, and every half second from now on; less often where a look takes long."""
        self._loop.start(_LOOK_S)

    def stop(self) -> None:
        """Show the run as it is now, for the last time."""
        if self._loop.running:
            self._loop.stop()
            self._show(self._display.close)

    def _show_if_due(self) -> None:
        if self._clock.seconds() >= self._not_before:
            self._show(self._display.show)

    def _show(self, how: Callable[[Progress], None]) -> None:
        try:
            began_s = self._clock.seconds()
            progress = self._look(self._display.most_hosts)
            ended_s = self._clock.seconds()
            pause_s = min((ended_s - began_s) / _MOST_SHARE, _LONGEST_S)
            self._not_before = ended_s + pause_s
            how(progress)
        except Exception:  # a display that fails must not take the run with it
            _log.failure("cannot show progress", event="progress-failed")


def _amount(progress: Progress) -> str:
    done = amount(progress.bytes_done)
    if progress.bytes_total is None:
        return done
    total = progress.bytes_total
    percent = 100 * progress.bytes_done // total if total else 100
    return f"{done} of {amount(total)} ({percent} %)"


def _companions(progress: Progress) -> list[str]:
    words = []
    if progress.clients_expected:
        words.append(f"{progress.clients}/{progress.clients_expected} clients")
    words.append(f"{progress.packets_repaired} repaired")
    return words
