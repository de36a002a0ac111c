"""What stands on a terminal while an image goes out, as a terminal's emulator shows it."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import Any
from unittest import mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kollacast.command.progress import Bar
from kollacast.command.streams import Console
from kollacast.command.terminal import Screen
from kollacast.command.view import MOST_HOSTS, View
from kollacast.operator.outcome import HostLine, Hosts, Progress
from tests.terminal import Emulator

_STATES = {"receiving": 190, "repairing": 6, "detached": 3, "failed": 1}


def _host(number: int, **more: Any) -> HostLine:
    values = {"state": "receiving", "share": 0.5, "loss": 0.001, "owed_s": 0.0, **more}
    return HostLine(name=f"host-{number} (10.0.1.{number})", **values)


def _server(done: int = 1_560_000_000, total: int | None = 3_000_000_000) -> Progress:
    slow = _host(1, state="repairing", share=0.48, loss=0.081, owed_s=1.2)
    slowest = (slow, *(_host(number) for number in range(2, MOST_HOSTS + 1)))
    return Progress("sending", done, total, 200, 200, 1234, Hosts(_STATES, 0.004, slowest))


def _client(done: int = 1_560_000_000) -> Progress:
    return Progress("receiving", done, 3_000_000_000, 0, 0, 17)


class _Console(Console):
    """A console whose terminal is emulated."""

    def __init__(self, columns: int, rows: int, encoding: str) -> None:
        super().__init__()
        self.program = "kollacast-server"
        self.encoding = encoding
        self.emulator = Emulator(columns, rows)

    def write(self, text: str) -> int:
        # what a terminal's line discipline makes of a line's end
        self.emulator.feed(text.replace("\n", "\r\n"))
        return len(text)

    def has_room(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("no descriptor")

    @property
    def shown(self) -> list[str]:
        return self.emulator.shown

    @property
    def all(self) -> list[str]:
        return self.emulator.all


class _DrawCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.set_environment(TERM="xterm-256color")
        self.clock = Clock()
        self.begin()

    def set_environment(self, **values: str) -> None:
        patch = mock.patch.dict(os.environ, values, clear=True)
        patch.start()
        self.addCleanup(patch.stop)

    def begin(self, columns: int = 80, rows: int = 24, encoding: str = "utf-8") -> None:
        self.terminal = _Console(columns, rows, encoding)
        self.bar = Bar(self.terminal, self.clock)
        self.bar._screen.size = self.size  # type: ignore[method-assign]
        self.bar.show(_server(0))

    def size(self) -> tuple[int, int]:
        return self.terminal.emulator.screen.columns, self.terminal.emulator.screen.lines

    def show(self, *progresses: Progress) -> list[str]:
        """Half a second apart."""
        for progress in progresses:
            self.clock.advance(0.5)
            self.bar.show(progress)
        return self.terminal.shown


class ViewTests(_DrawCase):
    """What is told, at any width."""

    def test_a_server(self) -> None:
        lines = self.show(_server(1_504_000_000), _server())
        self.assertEqual(len(lines), 2 + MOST_HOSTS)
        self.assertRegex(
            lines[0], r"^sending  ━+[━╸╺ ]+  52 %  1\.56 GB of 3\.00 GB  112 MB/s  00:12 left$"
        )
        self.assertEqual(
            lines[1],
            "200 of 200 hosts: 190 receiving, 6 repairing, 3 detached, 1 failed; 0.4 % lost…",
        )
        self.assertEqual(
            lines[2],
            "  host-1 (10.0.1.1)           repairing   48 %   8.1 % lost  waited for 1.2 s",
        )
        self.assertEqual(lines[3], "  host-2 (10.0.1.2)           receiving   50 %   0.1 % lost")

    def test_a_client_has_one_line(self) -> None:
        [line] = self.show(_client())
        self.assertRegex(line, r"^receiving  ━+.*  52 %  1\.56 GB of 3\.00 GB  17 repaired$")

    def test_a_size_that_nobody_knows(self) -> None:
        lines = self.show(_server(0, None), _server(56_000_000, None))
        self.assertEqual(lines[0], "sending  56.0 MB  112 MB/s")

    def test_an_empty_image(self) -> None:
        [line] = self.show(Progress("receiving", 0, 0, 0, 0, 0))
        self.assertRegex(line, r"100 %  0 B of 0 B")

    def test_the_rate_is_of_this_phase(self) -> None:
        waiting = Progress("waiting for clients", 0, 3_000_000_000, 0, 200, 0)
        lines = self.show(waiting, *[_server(k * 50_000_000) for k in range(60)])
        self.assertIn("100 MB/s", lines[0])
        lines = self.show(*[_server(2_950_000_000)] * 30)
        self.assertNotIn("/s", lines[0])

    def test_time_that_has_passed(self) -> None:
        """Whatever the time of day is, and however it is set meanwhile."""
        self.patch(time, "time", itertools.count(1_000_000, -3600).__next__)
        lines = self.show(*[_server(k * 50_000_000) for k in range(20)])
        self.assertIn("  100 MB/s  00:20 left", lines[0])

    def test_every_width(self) -> None:
        for columns in range(1, 140):
            self.begin(columns)
            lines = self.show(_server(), _server(1_600_000_000))
            self.assertEqual(len(lines), 2 + MOST_HOSTS if columns > 3 else len(lines), columns)
            for line in lines:
                self.assertLess(len(line), max(columns, 2), columns)
            if columns > 20:
                self.assertTrue(lines[0].startswith("sending  "), columns)
                self.assertIn("53 %", lines[0], columns)
            # What is drawn again is in the same place.
            self.assertEqual(self.show(_server(1_600_000_000))[1:], lines[1:], columns)

    def test_few_rows(self) -> None:
        for rows in range(1, 9):
            self.begin(80, rows)
            for _ in range(4):
                lines = self.show(_server())
            self.assertEqual(self.terminal.all, lines, rows)
            self.assertEqual(len(lines), max(min(rows - 1, 7), 1))

    def test_names_that_are_wide_or_hostile(self) -> None:
        names = ("機器" * 30, "e\u0301" * 40, "a\x1b[2J\x9b1A\r\n\u202eb", "x" * 300)
        hosts = tuple(HostLine(name, "receiving", 0.5, None, 0.0) for name in names)
        progress = Progress("sending", 1, 2, 4, 4, 0, Hosts({"receiving": 4}, None, hosts))
        lines = self.show(progress, progress)
        self.assertEqual(len(lines), 6)
        self.assertIn("\\x1b[2J", lines[4])
        for line in lines[2:]:
            self.assertRegex(line, r"  receiving   50 %$")

    def test_no_colour(self) -> None:
        def codes() -> str:
            return "\n".join(View("utf-8").lines(_server(), 0.0, 80))

        self.assertRegex(codes(), r"\x1b\[3[0-9]m")
        self.set_environment(TERM="xterm-256color", NO_COLOR="1")
        self.assertNotRegex(codes(), r"\x1b\[[0-9;]*(3[0-9]|38;[0-9;]+)m")

    def test_an_encoding_without_lines_and_dots(self) -> None:
        self.begin(60, encoding="ascii")
        lines = self.show(_server(), _server())
        self.assertTrue(all(line.isascii() for line in lines), lines)
        self.assertIn("----", lines[0])


class ScreenTests(_DrawCase):
    """Lines of the log pass above, and stay whole."""

    def test_lines_pass_above(self) -> None:
        for number in range(60):
            self.show(_server(number * 10_000_000))
            self.terminal.write_line(f"line {number} " + "x" * 200)
        text = "\n".join(self.terminal.all)
        lines = self.terminal.all
        starts = [at for at, line in enumerate(lines) if line.startswith("kollacast-server: line")]
        self.assertEqual(len(starts), 60)
        for at in starts:
            self.assertRegex("".join(lines[at : at + 3]), r"^kollacast-server: line \d+ x{200}$")
        self.assertEqual(text.count("sending  "), 1)
        self.assertEqual(lines[-7], self.terminal.shown[-7])

    def test_lines_of_threads(self) -> None:
        self.show(_server())
        threads = [
            threading.Thread(
                target=lambda name: [self.terminal.write_line(f"{name} {k}") for k in range(50)],
                args=(name,),
            )
            for name in ("one", "two")
        ]
        for thread in threads:
            thread.start()
        for step in range(50):
            self.show(_server(step * 1_000_000))
        for thread in threads:
            thread.join()
        lines = self.terminal.all
        self.assertEqual(
            sorted(line for line in lines if line.startswith("kollacast-server: ")),
            sorted(f"kollacast-server: {name} {k}" for name in ("one", "two") for k in range(50)),
        )
        self.assertEqual(len(lines), 107)

    def test_a_terminal_that_changes_its_size(self) -> None:
        self.show(_server())
        self.terminal.write_line("before")
        for columns in (120, 60, 30, 90):
            self.terminal.emulator.screen.resize(columns=columns)
            self.terminal.write_line(f"at {columns}")
            self.show(_server(), _server())
        lines = self.terminal.all
        for text in ("before", "at 120", "at 60", "at 30", "at 90"):
            self.assertIn(f"kollacast-server: {text}", lines)
        self.assertEqual(sum(line.startswith("sending  ") for line in lines), 1, lines)

    def test_the_end(self) -> None:
        self.show(_server())
        self.bar.close(Progress("ending", 3_000_000_000, 3_000_000_000, 200, 200, 1234))
        self.terminal.write_line("200 of 200 clients have the image")
        self.assertEqual(len(self.terminal.shown), 2)
        self.assertIn("100 %", self.terminal.shown[0])
        self.assertEqual(
            self.terminal.shown[1], "kollacast-server: 200 of 200 clients have the image"
        )

    def test_a_run_that_is_over_at_once(self) -> None:
        """It draws nothing."""
        self.bar.close(_server())
        self.terminal.write_line("done")
        self.assertEqual(self.terminal.shown, ["kollacast-server: done"])

    def test_a_terminal_that_has_no_size(self) -> None:
        self.set_environment(COLUMNS="44", LINES="10")
        self.assertEqual(Screen(self.terminal).size(), (44, 10))
