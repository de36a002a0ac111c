"""Where an image comes from, and where it goes: a source and a sink in memory."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from kollacast.files.fdio import called_off
from tests.simulation.system_error import system_error


class MemorySource:
    """An image to be read; ``fails_at`` is the offset at which reading raises EIO."""

    def __init__(
        self,
        image: bytes,
        *,
        name: str | None = "image",
        size: int | None = None,
        fails_at: int | None = None,
        read_bytes: int | None = None,
        identity: str | None = None,
    ) -> None:
        #: What names the image where it can be read again.
        self.identity = identity
        self.name = name
        self.size = size
        self.closed = False
        self.image = image
        self.fails_at = fails_at
        self._read_bytes = read_bytes
        self._at = 0

    def readinto(self, view: memoryview) -> int:
        if self.closed:
            raise called_off()
        count = min(len(view), len(self.image) - self._at)
        if self._read_bytes is not None:
            count = min(count, self._read_bytes)
        if self.fails_at is not None:
            count = min(count, self.fails_at - self._at)
            if count == 0:
                raise system_error(errno.EIO)
        view[:count] = self.image[self._at : self._at + count]
        self._at += count
        return count

    def read_at(self, offset: int, size: int) -> bytes:
        if self.closed or self.identity is None:
            raise called_off()
        return self.image[offset : offset + size]

    def close(self) -> None:
        self.closed = True


class MemorySink:
    """A file that has its name once it is committed, as the sinks of the program."""

    def __init__(
        self, *, room: int | None = None, commit_error: OSError | None = None, broken: bool = False
    ) -> None:
        self.data = b""
        self.is_committed = False
        self.is_abandoned = False
        self.is_kept = False
        #: Whether what is written stays written.
        self.is_stream = False
        #: How many of the first bytes count for the next run, all for None.
        self.marked: int | None = None
        self.identity: str | None = None
        # Whether what is there already is of this run's image.
        self._is_resumed = False
        self._room = room
        self._commit_error = commit_error
        self._broken = broken

    @property
    def can_skip(self) -> bool:
        return not self.is_stream

    def expect(self, size: int) -> None:
        self._refuse_if_abandoned()
        if self._room is not None and size > self._room:
            raise system_error(errno.ENOSPC)

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        assert not self.is_committed, "a write after the commit"
        self._refuse_if_abandoned()
        self._begin()
        if self._broken:
            raise system_error(errno.EPIPE)
        data = b"".join(views)
        if self._room is not None and offset + len(data) > self._room:
            raise system_error(errno.ENOSPC)
        gap = offset - len(self.data)
        assert gap <= 0 or self.marked is not None, "a gap that is not marked"
        self.data = self.data.ljust(offset, b"?")
        self.data = self.data[:offset] + data + self.data[offset + len(data) :]

    def mark(self, size: int | None) -> None:
        assert self.can_skip, "a mark on a stream"
        self._refuse_if_abandoned()
        self.marked = size

    def commit(self, digest: str = "") -> None:
        assert not self.is_committed, "a second commit"
        assert self.marked is None, "a commit with a gap"
        self._refuse_if_abandoned()
        self._begin()
        if self._commit_error is not None:
            raise self._commit_error
        self.is_committed = True

    def resume(self, identity: str, unit: int) -> int:
        """Go on with what the last run on this sink has kept."""
        self._refuse_if_abandoned()
        if identity != self.identity:
            self.data = b""
        self._is_resumed = True
        self.identity = identity
        self.data = self.data[: len(self.data) // unit * unit]
        return len(self.data)

    def read_back(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    def restart(self) -> None:
        self._refuse_if_abandoned()
        if self.is_stream and self.data:
            raise system_error(errno.ESPIPE)
        self.data = b""
        self.marked = self.identity = None

    def abandon(self, keep: bool = False) -> None:
        if not self.is_committed:
            self.is_abandoned = True
            self.is_kept = keep

    def reopen(self) -> MemorySink:
        """The sink of the next run, which finds what this one has kept, or was killed over."""
        sink = MemorySink()
        if self.is_kept or not (self.is_abandoned or self.is_committed):
            sink.data, sink.identity = self.data[: self.marked], self.identity
        return sink

    def _begin(self) -> None:
        if not self._is_resumed:
            self.data, self._is_resumed = b"", True

    def _refuse_if_abandoned(self) -> None:
        if self.is_abandoned:
            raise called_off()
