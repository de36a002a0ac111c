"""What an image goes to, as an interface: written from its start, named once it is whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Protocol


class Sink(Protocol):
    """Takes an image from its start to its end."""

    @property
    def can_skip(self) -> bool:
        """Whether a `write` may leave a gap before it. Asked after `resume`."""

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        """Write every byte of `views` in order, the first one at `offset` of the image.

        Where the sink cannot skip, `offset` is where the last write has ended. Blocks, so a
        worker thread calls it. Raises OSError, BrokenPipeError among them.
        """

    def mark(self, size: int | None) -> None:
        """Only the first `size` bytes count for a later run, or all for None.

        Where the sink can skip: to be called before the first gap, and when it is closed. Blocks.
        Raises OSError.
        """

    def commit(self, digest: str = "") -> None:
        """The image is whole and verified: bring it to disk, under its name. Raises OSError.

        `digest` is the image's, as in "sha256:2c26b4…", for a sink that makes a note of it.
        """

    def expect(self, size: int) -> None:
        """The image has so many bytes in all. Blocks.

        Asked before the first `write`, and after `resume`. Raises OSError (ENOSPC) where they
        have no room.
        """

    def resume(self, identity: str, unit: int) -> int:
        """Take up what an earlier run has kept of the image called `identity`, if anything.

        Returns how many bytes of the image are there already, a multiple of `unit`: the next
        `write` goes on behind them. Blocks. Raises OSError.
        """

    def read_back(self, offset: int, size: int) -> bytes:
        """`size` bytes that are there already. Blocks. Raises OSError."""

    def restart(self) -> None:
        """The image begins anew: forget what was written. Blocks. Raises OSError if it cannot."""

    def abandon(self, keep: bool = False) -> None:
        """The image will not be whole: leave no file behind. Never raises; nothing after `commit`.

        With `keep`, what is there stays for a later run to `resume`, where that is possible.
        Any thread may call it at any time, and more than once. A `write` that waits in another
        thread raises OSError (ECANCELED) within a moment.
        """


class OneWay:
    """What a `Sink` has in common with others where what is written stays written."""

    can_skip = False

    def expect(self, size: int) -> None:
        pass

    def mark(self, size: int | None) -> None:
        raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))

    def resume(self, identity: str, unit: int) -> int:
        return 0

    def read_back(self, offset: int, size: int) -> bytes:
        raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
