"""Terminals for tests: an emulator, which says what stands on the screen, and a real one."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import threading

import pyte


class Emulator:
    """What a terminal of this size shows of what is written to it."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.Stream(self.screen)

    def feed(self, text: str) -> None:
        self._stream.feed(text)

    @property
    def shown(self) -> list[str]:
        """What is on the screen, to its last line that is not empty."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip("\n").split("\n")

    @property
    def all(self) -> list[str]:
        """The same with what has moved out at the top."""
        gone = ["".join(row[x].data for x in sorted(row)) for row in self.screen.history.top]
        return [line.rstrip() for line in gone] + self.shown


class Terminal:
    """A terminal that somebody looks at; `theirs` is the descriptor for a process to write to."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._ours, self.theirs = pty.openpty()
        self.emulator = Emulator(columns, rows)
        self.resize(columns, rows)
        #: Every screen that there was, as far as each piece that has come makes one.
        self.screens: list[list[str]] = []
        self._ends, self._tell = os.pipe()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def resize(self, columns: int, rows: int) -> None:
        """Make it another size, while nothing is under way to it."""
        self.emulator.screen.resize(rows, columns)
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, size)

    def stop(self) -> None:
        """As Ctrl-S does: it takes no more."""
        os.write(self._ours, b"\x13")

    def has_shown(self, text: str) -> bool:
        return any(text in line for screen in list(self.screens) for line in screen)

    def hang_up(self) -> None:
        """Have it gone: whoever writes to it is told so."""
        if self._thread.is_alive():
            os.write(self._tell, b".")
            self._thread.join()
            for fd in (self._ours, self.theirs, self._ends, self._tell):
                os.close(fd)

    def _look(self) -> None:
        poll = select.poll()
        poll.register(self._ours, select.POLLIN)
        poll.register(self._ends, select.POLLIN)
        data = b""
        while True:
            ready = dict(poll.poll())
            if self._ends in ready:
                break
            data += os.read(self._ours, 65536)
            # What is cut off in the middle of a character waits for the rest.
            text = data.decode(errors="ignore")
            self.emulator.feed(text)
            data = data[len(text.encode()) :]
            self.screens.append(self.emulator.shown)
