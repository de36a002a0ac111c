"""The last lines of a terminal, drawn anew in place; lines of the log pass above them whole.

What is asked of a terminal is what every one does that moves its cursor: carriage return, cursor
up, and to erase what follows (ECMA-48: CR, CUU, EL, ED). Nothing is left switched on when the
process is killed.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from kollacast.command.streams import Console

_ERASE_LINE = "\x1b[K"
_ERASE_BELOW = "\x1b[J"


def can_draw(console: Console) -> bool:
    """Whether `console` is a terminal, and one that moves its cursor."""
    return console.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


class Screen:
    """The last lines of the terminal behind `console`; as many as were drawn last."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: Sequence[str] = ()
        self._size = (0, 0)
        # Threads have something to say, too, and what they say is not to come in between.
        self._lock = threading.RLock()
        console.line_guard = self._step_aside

    def size(self) -> tuple[int, int]:
        """Columns and rows; a serial line claims to have none of either."""
        with suppress(OSError):
            columns, rows = os.get_terminal_size(self._console.fileno())
            if columns and rows:
                return columns, rows
        columns, rows = shutil.get_terminal_size()
        return columns, rows

    def draw(self, lines: Sequence[str]) -> None:
        """Have these in the place of what was drawn before.

        None may fill the last column, where a terminal would go on in the next line.
        """
        with self._lock:
            if not self._console.has_room():
                return  # one that is stopped shows what it shows
            self._size = self.size()
            # What stands above the first row, no cursor comes back to.
            shown = lines[: max(self._size[1] - 1, 1)]
            text = f"{_ERASE_LINE}\n".join(shown)
            self._console.write(self._to_the_first() + text + _ERASE_BELOW)
            self._drawn = shown

    def close(self) -> None:
        """Leave what is drawn where it is, and go on below it."""
        with self._lock:
            if self._drawn:
                self._console.write("\n")
            self._drawn = ()

    def _to_the_first(self) -> str:
        """To the first column of the first line drawn.

        In a terminal that has become narrower these may be more lines by now, or cut off: then some
        of them stay, but no line of the log is lost.
        """
        up = len(self._drawn) - 1
        return "\r" + (f"\x1b[{up}A" if up > 0 else "")

    @contextmanager
    def _step_aside(self) -> Iterator[None]:
        with self._lock:
            drawn = self._drawn
            if not drawn:
                yield
                return
            self._console.write(self._to_the_first() + _ERASE_BELOW)
            self._drawn = ()
            yield
            if self.size() == self._size:
                self.draw(drawn)
