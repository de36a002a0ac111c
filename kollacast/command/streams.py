"""The three standard streams: standard output is for the image, standard error for every word.

Everything here works on descriptors 0, 1 and 2 themselves, because twistd puts objects of its own
in the place of ``sys.stdout`` and ``sys.stderr``.
"""

from __future__ import annotations

import errno
import fcntl
import locale
import os
import select
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

_STALL_MS = 1000  # how long a standard error that takes nothing may hold the run up, once
_PIECE = 4096  # bytes that a pipe takes at once where it takes any: PIPE_BUF of pipe(7)


class Console:
    """Standard error, line by line. A text stream, as far as a progress bar needs one."""

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._takes = True  # more, when it was asked last
        self.program = "kollacast"  #: opens every line
        #: Entered around each line, so that what is drawn on the terminal can step aside.
        self.line_guard: Callable[[], AbstractContextManager[None]] = nullcontext
        #: Makes a line of what is told.
        self.render: Callable[[str], str] = self.as_text
        self.encoding = locale.getpreferredencoding(False)

    def as_text(self, text: str) -> str:
        """`text` as one line that says who says it, whatever it holds."""
        return f"{self.program}: {one_line(text)}"

    def write_line(self, text: str) -> None:
        """Write `text` as one line. Never raises."""
        self.write_whole(self.render(text))

    def write_whole(self, line: str) -> None:
        """Write `line`, which is one, past what is drawn on the terminal. Never raises."""
        with self.line_guard():
            self.write(f"{line}\n")

    def write(self, text: str) -> int:
        """Write `text` as it is. Never raises: nobody is left to be told.

        A terminal that is stopped (Ctrl-S), or a pipe that nobody reads, costs lines, and the run
        no more than a moment.
        """
        data = memoryview(text.encode(self.encoding, "backslashreplace"))
        while data and self._waits_for_room():
            try:
                data = data[os.write(self._fd, data[:_PIECE]) :]
            except OSError:
                break
        return len(text)

    def has_room(self) -> bool:
        """Whether it takes more at this moment. What is broken does: it says so when written to."""
        return self._poll(0)

    def _waits_for_room(self) -> bool:
        """Wait for that, though not again as long as it has not come."""
        self._takes = self._poll(_STALL_MS if self._takes else 0)
        return self._takes

    def _poll(self, timeout_ms: int) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        return bool(poller.poll(timeout_ms))

    def flush(self) -> None:
        """Nothing is ever held back."""

    def fileno(self) -> int:
        """The descriptor, which tells a progress bar how wide the terminal is."""
        return self._fd

    def isatty(self) -> bool:
        """Whether somebody watches."""
        return os.isatty(self._fd)


#: The one console of the process.
console = Console()


def one_line(text: str) -> str:
    """`text` without line breaks; other control characters (a peer may send any) are spelt out."""
    joined = " ".join(text.split("\n")).strip()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in joined)


def fill_closed_streams() -> frozenset[int]:
    """Open the null device in the place of each standard stream that is closed; return which.

    Otherwise the next file that is opened, the image for one, takes that place and its traffic.
    """
    closed = []
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            closed.append(fd)
    return frozenset(closed)


def prove_standard_output_takes_an_image() -> None:
    """Raise OSError when standard output is a terminal, or cannot be written to."""
    if os.isatty(1):
        raise OSError(errno.EINVAL, "is a terminal")
    if fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "is open for reading only")


def take_standard_output() -> int:
    """Return a descriptor of standard output that nothing else in this process knows.

    From then on whatever is written to descriptor 1, by whomever, goes to standard error.
    """
    private = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    close_standard_output()
    return private


def close_standard_output() -> None:
    """Send whatever is written to descriptor 1, by whomever, to standard error."""
    os.dup2(2, 1)
