"""Packets of the past, for clients that are not in step with the others.

What has been read once is read again: from the image where it is a file, or
from the spool where the input is a pipe and a spool was asked for.  All the
packets of an image but the last are full, so the place of a packet follows
from its seq.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from kollacast.events.observer import Observer
from kollacast.files.source import Source
from kollacast.files.spool import Spool
from kollacast.sending.ration import Ration
from kollacast.transport.worker import Worker


class NotHeld(Exception):
    """What was read once cannot be read again; the text says why."""


class History:
    """Reads the past of ``source`` in ``worker``'s thread, when ``ration`` lets it go out."""

    def __init__(self, source: Source, spool: Spool | None, worker: Worker, ration: Ration) -> None:
        self._ration = ration
        self._spool = None if source.identity is not None else spool
        self._store: Source | Spool | None = source if source.identity is not None else spool
        self._worker = worker
        #: How much of the image has been read so far.
        self.bytes_read = 0
        self._over = False
        #: Who waits for more of the image to be read.
        self.waiting: Observer[None] = Observer()

    @property
    def lack(self) -> str | None:
        """Why the past cannot be read, or None."""
        if self._store is None:
            return "its input is a pipe, which is not read twice without --spool"
        return None if self._spool is None else self._spool.broken

    def keep(self, data: memoryview) -> None:
        """``data`` has just been read; called in the thread that has read it."""
        if self._spool is not None:
            self._spool.write(data)

    def passed(self, size: int) -> None:
        """``size`` more bytes have been read, or the end for 0."""
        self.bytes_read += size
        self._over = size == 0
        self.waiting.fire(None)

    def read(self, offset: int, size: int) -> Deferred[bytes]:
        """The bytes from ``offset`` on, once they have been read and it is their turn.

        They are fewer only at the end.

        Fails with :class:`NotHeld`.  May be cancelled, and then nothing waits any more.
        """
        return Deferred.fromCoroutine(self._read(offset, size))

    def close(self) -> None:
        """Nothing is read any more."""
        self.waiting.clear()
        self._ration.close()
        if self._spool is not None:
            self._spool.close()

    async def _read(self, offset: int, size: int) -> bytes:
        while not self._over and self.bytes_read < offset + size:
            await self.waiting.wait()
        size = min(size, self.bytes_read - offset)
        if size <= 0:
            return b""
        await self._ration.turn(size)
        if self._store is None or self.lack is not None:
            raise NotHeld(self.lack)
        try:
            data = await self._worker.run(self._store.read_at, offset, size)
        except OSError as error:
            raise NotHeld(f"the image cannot be read again: {error.strerror}") from None
        if len(data) < size:
            raise NotHeld("the image has become shorter")
        return data
