"""Showing how far a run is: a bar on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from kollacast.command.streams import Console
from kollacast.operator.outcome import Progress

_LOOK_S = 0.5  # between two looks at the run
_LINE_S = 5.0  # between two lines while nothing but bytes moves

_log = Logger()


@functools.cache
def _tqdm() -> Any:
    """tqdm, loaded when first needed: that takes 10 ms, and most runs show no bar."""
    from tqdm import tqdm

    # Its monitor thread would outlive the run, and its lock would be one between processes.
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
    return tqdm


class Display:
    """Shows one moment after another; this one nothing, for those who want no progress shown."""

    def show(self, progress: Progress) -> None:
        """Show the run as it is now."""

    def close(self, progress: Progress) -> None:
        """Show the run as it is now, if that is still worth it, and nothing more after it."""


class Bar(Display):
    """A progress bar at the bottom of a terminal; lines of the log pass above it."""

    def __init__(self, console: Console, clock: IReactorTime) -> None:
        self._console = console
        self._clock = clock
        self._bar: Any = None  # made when there is something to show

    def show(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = _tqdm()(
                total=progress.bytes_total,
                desc=progress.phase,
                unit="B",
                unit_scale=True,
                file=self._console,
                **_size(self._console),
                # every look is drawn: looks are rare enough
                mininterval=0,
                miniters=0,
            )
            # tqdm would go by the time of day, and stand still when that is set back.
            self._bar._time = self._clock.seconds
            self._bar.reset()
            self._console.line_guard = lambda: _tqdm().external_write_mode(file=self._console)
        if not progress.bytes_done:
            # waiting for clients must not count as time it took to send
            self._bar.reset()
        self._bar.total = progress.bytes_total
        self._bar.set_description_str(progress.phase, refresh=False)
        self._bar.set_postfix_str(", ".join(_companions(progress)), refresh=False)
        self._bar.update(max(0, progress.bytes_done - self._bar.n))

    def close(self, progress: Progress) -> None:
        self.show(progress)
        self._bar.close()


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
                parts.append(f"{_bytes(rate)}/s")
                if progress.bytes_total:
                    left_s = (progress.bytes_total - progress.bytes_done) / rate
                    parts.append(f"{_tqdm().format_interval(left_s)} left")
        return f"{progress.phase}: " + ", ".join([*parts, *_companions(progress)])


def choose_display(
    mode: str, console: Console, clock: IReactorTime, emit: Callable[[str], None]
) -> Display:
    """The display for a value of ``--progress``; `emit` takes what is shown in lines."""
    if mode == "none":
        return Display()
    if mode == "bar" or (mode == "auto" and console.isatty()):
        return Bar(console, clock)
    return Lines(clock, emit)


class ProgressWatch:
    """Keeps a display up to date from `start` to `stop`."""

    def __init__(self, clock: IReactorTime, look: Callable[[], Progress], display: Display) -> None:
        self._display = display
        self._look = look
        self._loop = LoopingCall(self._show, display.show)
        self._loop.clock = clock

    def start(self) -> None:
        """Look now, and every half second from now on."""
        self._loop.start(_LOOK_S)

    def stop(self) -> None:
        """Show the run as it is now, for the last time."""
        if self._loop.running:
            self._loop.stop()
            self._show(self._display.close)

    def _show(self, how: Callable[[Progress], None]) -> None:
        try:
            how(self._look())
        except Exception:  # a display that fails must not take the run with it
            _log.failure("cannot show progress", event="progress-failed")


def _size(console: Console) -> dict[str, Any]:
    """What tqdm is told about the size of the terminal: a serial line claims to be 0 by 0."""
    with suppress(OSError):
        if all(os.get_terminal_size(console.fileno())):
            return {"dynamic_ncols": True}
    columns, rows = shutil.get_terminal_size()
    return {"ncols": columns - 1, "nrows": rows}


def _amount(progress: Progress) -> str:
    done = _bytes(progress.bytes_done)
    if progress.bytes_total is None:
        return done
    total = progress.bytes_total
    percent = 100 * progress.bytes_done // total if total else 100
    return f"{done} of {_bytes(total)} ({percent} %)"


def _companions(progress: Progress) -> list[str]:
    words = []
    if progress.clients_expected:
        words.append(f"{progress.clients}/{progress.clients_expected} clients")
    words.append(f"{progress.packets_repaired} repaired")
    return words


def _bytes(number: float) -> str:
    if number < 1000:
        return f"{number:.0f} B"
    text: str = _tqdm().format_sizeof(number, "B")
    return text
