"""What is shown of a run's progress, and when."""

from __future__ import annotations

import os
from typing import cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kollacast.command.amounts import amount, duration
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
            self.lines, ["waiting for clients: 0 B of 10.0 MB (0 %), 2/3 clients, 0 repaired"]
        )

    def test_a_line_every_few_seconds(self) -> None:
        for step in range(21):  # 10 s, by half seconds
            self.display.show(_at(step * 250_000, repaired=step))
            self.clock.advance(0.5)
        self.assertEqual(
            self.lines[1:],
            [
                "sending: 2.50 MB of 10.0 MB (25 %), 500 kB/s, 00:15 left, 2/3 clients,"
                " 10 repaired",
                "sending: 5.00 MB of 10.0 MB (50 %), 500 kB/s, 00:10 left, 2/3 clients,"
                " 20 repaired",
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
        self.assertEqual(self.lines[1], "sending: 5.00 MB, 1.00 MB/s, 2/3 clients, 0 repaired")

    def test_empty_image(self) -> None:
        self.display.show(_at(0, 0))
        self.assertIn("0 B of 0 B (100 %)", self.lines[0])

    def test_client(self) -> None:
        self.display.show(Progress("receiving", 0, None, 0, 0, 4))
        self.assertEqual(self.lines, ["receiving: 0 B, 4 repaired"])


class _Terminal:
    """A console that is a terminal, or is not."""

    encoding = "utf-8"

    def __init__(self, is_terminal: bool = True) -> None:
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


class AmountTests(SynchronousTestCase):
    def test_bytes(self) -> None:
        for number, text in (
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_600, "1.00 MB"),
            (112_400_000, "112 MB"),
            (3_000_000_000, "3.00 GB"),
            (10**18, "1000 PB"),
        ):
            self.assertEqual(amount(number), text)

    def test_times(self) -> None:
        for seconds, text in ((0.9, "00:00"), (75, "01:15"), (3723.9, "1:02:03")):
            self.assertEqual(duration(seconds), text)


class ChoiceTests(SynchronousTestCase):
    def choose(self, mode: str, is_terminal: bool) -> type[object]:
        console = cast(Console, _Terminal(is_terminal))
        return type(choose_display(mode, console, Clock(), lambda line: None))

    def setUp(self) -> None:
        self.patch(os, "environ", {"TERM": "xterm"})

    def test_auto(self) -> None:
        self.assertIs(self.choose("auto", True), Bar)
        self.assertIs(self.choose("auto", False), Lines)

    def test_told(self) -> None:
        self.assertIs(self.choose("bar", True), Bar)
        # What is no terminal would only keep what moves its cursor.
        self.assertIs(self.choose("bar", False), Lines)
        for is_terminal in (True, False):
            self.assertIs(self.choose("plain", is_terminal), Lines)
            self.assertIs(self.choose("none", is_terminal), Display)

    def test_a_terminal_that_cannot_move_its_cursor(self) -> None:
        for environment in ({"TERM": "dumb"}, {"TERM": ""}, {}):
            self.patch(os, "environ", environment)
            self.assertIs(self.choose("bar", True), Lines)
            self.assertIs(self.choose("auto", True), Lines)


class _Kept(Display):
    def __init__(self) -> None:
        self.most_hosts = 3
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
        asked: list[int] = []

        def look(most_hosts: int) -> Progress:
            asked.append(most_hosts)
            return _at(int(self.clock.seconds() * 10))

        watch = ProgressWatch(self.clock, look, self.display)
        watch.start()
        self.clock.pump([0.5, 0.5])
        watch.stop()
        self.assertEqual([moment.bytes_done for moment in self.display.shown], [0, 5, 10])
        self.assertEqual([moment.bytes_done for moment in self.display.closed], [10])
        self.assertEqual(set(asked), {3})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_look_that_takes_long(self) -> None:
        """It costs a run no more than one part in a hundred, and is not waited for for ever."""
        took_s = 0.015

        def look(most_hosts: int) -> Progress:
            self.clock.rightNow += took_s
            return _at(0)

        watch = ProgressWatch(self.clock, look, self.display)
        watch.start()
        self.clock.pump([0.1] * 300)
        looks = len(self.display.shown)
        self.assertTrue(15 <= looks <= 0.011 * self.clock.seconds() / took_s, looks)
        took_s = 1.0
        self.clock.pump([0.1] * 300)
        self.assertGreaterEqual(len(self.display.shown), looks + 10)
        watch.stop()
        self.assertEqual(len(self.display.closed), 1)

    def test_stop_without_start(self) -> None:
        watch = ProgressWatch(self.clock, lambda most_hosts: _at(0), self.display)
        watch.stop()
        self.assertEqual(self.display.closed, [])

    def test_a_look_that_fails(self) -> None:
        def look(most_hosts: int) -> Progress:
            raise ZeroDivisionError

        watch = ProgressWatch(self.clock, look, self.display)
        watch.start()
        self.clock.pump([0.5])
        watch.stop()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)
