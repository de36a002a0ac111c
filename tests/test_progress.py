"""What is shown of a run's progress, and when."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import tqdm.std
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kollacast.command.progress import Bar, Display, Lines, ProgressWatch, choose_display
from kollacast.command.streams import Console
from kollacast.operator.outcome import Progress


def _at(
    done: int, total: int | None = 10_000_000, phase: str = "sending", repaired: int = 0
) -> Progress:
    return Progress(phase, done, total, 2, 3, repaired)


class LinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.lines: list[str] = []
        self.display = Lines(self.clock, self.lines.append)

    def test_first_moment(self) -> None:
        self.display.show(_at(0, phase="waiting for clients"))
        self.assertEqual(
            self.lines, ["waiting for clients: 0 B of 10.0MB (0 %), 2/3 clients, 0 repaired"]
        )

    def test_a_line_every_few_seconds(self) -> None:
        for step in range(21):  # 10 s, by half seconds
            self.display.show(_at(step * 250_000, repaired=step))
            self.clock.advance(0.5)
        self.assertEqual(
            self.lines[1:],
            [
                "sending: 2.50MB of 10.0MB (25 %), 500kB/s, 00:15 left, 2/3 clients, 10 repaired",
                "sending: 5.00MB of 10.0MB (50 %), 500kB/s, 00:10 left, 2/3 clients, 20 repaired",
            ],
        )

    def test_a_line_at_every_phase(self) -> None:
        for phase in ("waiting for clients", "sending", "sending", "proving"):
            self.display.show(_at(0, phase=phase))
        self.assertEqual(
            [line.partition(":")[0] for line in self.lines],
            ["waiting for clients", "sending", "proving"],
        )

    def test_unknown_size(self) -> None:
        self.display.show(_at(0, None))
        self.clock.advance(5)
        self.display.show(_at(5_000_000, None))
        self.assertEqual(self.lines[1], "sending: 5.00MB, 1.00MB/s, 2/3 clients, 0 repaired")

    def test_empty_image(self) -> None:
        self.display.show(_at(0, 0))
        self.assertIn("0 B of 0 B (100 %)", self.lines[0])

    def test_client(self) -> None:
        self.display.show(Progress("receiving", 0, None, 0, 0, 4))
        self.assertEqual(self.lines, ["receiving: 0 B, 4 repaired"])


class _Terminal:
    """A console that keeps what is drawn."""

    encoding = "utf-8"
    program = "kollacast-server"

    def __init__(self, is_terminal: bool = True) -> None:
        self.line_guard: Callable[[], AbstractContextManager[None]] = nullcontext
        self.drawn = io.StringIO()
        self._is_terminal = is_terminal
        self.write = self.drawn.write
        self.flush = self.drawn.flush

    def isatty(self) -> bool:
        return self._is_terminal

    def fileno(self) -> int:
        raise OSError("no descriptor")


class BarTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.terminal = _Terminal()
        self.clock = Clock()
        self.bar = Bar(cast(Console, self.terminal), self.clock)

    def last_drawn(self) -> str:
        return self.terminal.drawn.getvalue().rstrip().rpartition("\r")[2]

    def test_known_size(self) -> None:
        self.bar.show(_at(0, phase="waiting for clients"))
        self.assertIn("waiting for clients", self.last_drawn())
        self.bar.show(_at(2_500_000, repaired=7))
        drawn = self.last_drawn()
        self.assertIn("sending:  25%", drawn)
        self.assertIn("2.50M/10.0M", drawn)
        self.assertIn("2/3 clients, 7 repaired", drawn)
        self.bar.close(_at(10_000_000))
        self.assertIn("100%", self.last_drawn())

    def test_unknown_size(self) -> None:
        self.bar.show(_at(2_500_000, None))
        self.bar.show(_at(5_000_000, None))
        self.assertIn("sending: 5.00MB [", self.last_drawn())
        self.bar.close(_at(5_000_000, None))

    def test_time_that_has_passed(self) -> None:
        """Whatever the time of day is, and however it is set meanwhile."""
        self.patch(tqdm.std, "time", itertools.count(1_000_000, -3600).__next__)
        self.bar.show(_at(0))
        self.clock.advance(10)
        self.bar.show(_at(5_000_000))
        self.assertIn("[00:10<00:10", self.last_drawn())
        self.assertIn("500kB/s", self.last_drawn())
        self.bar.close(_at(10_000_000))

    def test_lines_pass_above(self) -> None:
        self.bar.show(_at(1_000_000))
        with self.terminal.line_guard():
            before = self.terminal.drawn.getvalue()
            self.terminal.write("a line\n")
        self.assertTrue(before.endswith(" \r"), before)  # wiped, for the line to start there
        self.assertIn("sending", self.last_drawn())
        self.bar.close(_at(1_000_000))

    def test_nothing_ever_shown(self) -> None:
        self.bar.close(_at(0))
        self.assertIn("sending", self.last_drawn())


class ChoiceTests(SynchronousTestCase):
    def choose(self, mode: str, is_terminal: bool) -> type[object]:
        console = cast(Console, _Terminal(is_terminal))
        return type(choose_display(mode, console, Clock(), lambda line: None))

    def test_auto(self) -> None:
        self.assertIs(self.choose("auto", True), Bar)
        self.assertIs(self.choose("auto", False), Lines)

    def test_told(self) -> None:
        for is_terminal in (True, False):
            self.assertIs(self.choose("bar", is_terminal), Bar)
            self.assertIs(self.choose("plain", is_terminal), Lines)
            self.assertIs(self.choose("none", is_terminal), Display)


class _Kept(Display):
    def __init__(self) -> None:
        self.shown: list[Progress] = []
        self.closed: list[Progress] = []

    def show(self, progress: Progress) -> None:
        self.shown.append(progress)

    def close(self, progress: Progress) -> None:
        self.closed.append(progress)


class WatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.display = _Kept()

    def test_looks_twice_a_second(self) -> None:
        watch = ProgressWatch(self.clock, lambda: _at(int(self.clock.seconds() * 10)), self.display)
        watch.start()
        self.clock.pump([0.5, 0.5])
        watch.stop()
        self.assertEqual([moment.bytes_done for moment in self.display.shown], [0, 5, 10])
        self.assertEqual([moment.bytes_done for moment in self.display.closed], [10])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_without_start(self) -> None:
        watch = ProgressWatch(self.clock, lambda: _at(0), self.display)
        watch.stop()
        self.assertEqual(self.display.closed, [])

    def test_a_look_that_fails(self) -> None:
        def look() -> Progress:
            raise ZeroDivisionError

        watch = ProgressWatch(self.clock, look, self.display)
        watch.start()
        self.clock.pump([0.5])
        watch.stop()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)
