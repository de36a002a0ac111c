"""Blocking reads and writes on a descriptor that another thread can call off.

A pipe may keep a worker thread waiting for ever: its other end is a program that has stopped.
So a transfer waits in `poll` a moment at a time and looks whether it has been called off, and it
copes with a descriptor that is non-blocking (an inherited one may share that mode with a terminal
or a parent process).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

#: Bytes asked of the kernel for a pipe; what an unprivileged process may have on Linux (pipe(7)).
PIPE_SIZE = 1 << 20

_POLL_MS = 200
_IOV_MAX = os.sysconf("SC_IOV_MAX") if "SC_IOV_MAX" in os.sysconf_names else 16
_PIPE_BUF = select.PIPE_BUF  # what a writable pipe takes without blocking (poll(2), pipe(7))


def is_lasting(mode: int) -> bool:
    """Whether this is the mode of a regular file or a block device.

    What is in it can be read again, and a transfer needs no `poll`.
    """
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def enlarge_pipe(fd: int) -> None:
    """Ask for a pipe buffer of `PIPE_SIZE` bytes; no harm where `fd` is no pipe or may not."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return
    with suppress(OSError):
        fcntl.fcntl(fd, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_SIZE)


def called_off() -> OSError:
    """The error that a transfer raises when it is called off."""
    return OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


class Lending:
    """Lends what threads work with, until any of them calls that off."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        """`give_back` is called once, when it is called off and nobody works with it any more."""
        self._give_back = give_back
        self._users = 0
        self.lock = threading.RLock()
        self._is_over = False

    def is_off(self) -> bool:
        """Whether it is called off."""
        return self._is_over

    def prove(self) -> None:
        """Raise OSError (ECANCELED) when it is called off."""
        if self._is_over:
            raise called_off()

    @contextmanager
    def lend(self) -> Iterator[None]:
        """Within it, it is not given back. Raises OSError (ECANCELED) when it is called off."""
        with self.lock:
            self.prove()
            self._users += 1
        try:
            yield
        finally:
            with self.lock:
                self._users -= 1
                if self._is_over and not self._users:
                    self._give_back()

    def end(self) -> None:
        """Call it off, if nobody has."""
        with self.lock:
            was_over, self._is_over = self._is_over, True
            # A descriptor closed under a user could be another file's by the time it is used.
            if not (was_over or self._users):
                self._give_back()


def _wait_until_ready(fd: int, events: int, polled: bool, is_off: Callable[[], bool]) -> None:
    """Return when `poll` reports anything on `fd`, if it is to be `polled`.

    Raises OSError (ECANCELED) when `is_off()` turns true before that.
    """
    poller = select.poll()
    poller.register(fd, events)
    while True:
        if is_off():
            raise called_off()
        if not polled or poller.poll(_POLL_MS):
            return


def read_some(fd: int, view: memoryview, polled: bool, is_off: Callable[[], bool]) -> int:
    """Read into `view` and return how many bytes came; 0 is the end. Raises OSError."""
    while True:
        _wait_until_ready(fd, select.POLLIN, polled, is_off)
        try:
            return os.readv(fd, [view])
        except BlockingIOError:
            polled = True


def write_all(
    fd: int, views: Sequence[memoryview], polled: bool, is_off: Callable[[], bool]
) -> None:
    """Write every byte of `views` in order.

    Raises OSError, and BrokenPipeError when nobody reads `fd` any more.
    """
    careful = polled and os.get_blocking(fd)
    index = 0
    rest: memoryview | None = None  # what a short write has left of views[index]
    while index < len(views):
        batch = list(views[index : index + _IOV_MAX])
        if rest is not None:
            batch[0] = rest
        if careful:
            # A blocking pipe that poll calls writable takes this much at once, and no more is sure.
            batch = [batch[0][:_PIPE_BUF]]
        _wait_until_ready(fd, select.POLLOUT, polled, is_off)
        try:
            written = os.writev(fd, batch)
        except BlockingIOError:
            polled = True
            continue
        while index < len(views):
            current = views[index] if rest is None else rest
            if written < len(current):
                rest = current[written:]
                break
            written -= len(current)
            rest = None
            index += 1
