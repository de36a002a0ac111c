"""Reads the image ahead of the multicast, into buffers that go round.

Reading and digesting run in a thread each; a buffer comes out as soon as it
is read and digested, and goes in again once it is released.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.files.digest import Digester
from kollacast.files.source import Source
from kollacast.files.tree_digest import digest_pieces
from kollacast.packets.buffer import PacketBuffer
from kollacast.sending.history import History
from kollacast.sending.plan import Plan
from kollacast.transport.worker import Worker

_log = Logger()

#: Buffers that are filled while a full window is in flight.
_READ_AHEAD = 1


class Filled(NamedTuple):
    """A buffer with so many bytes of the image, and the digests of the pieces in it."""

    buffer: PacketBuffer
    size: int  #: 0 behind the last one
    pieces: Sequence[bytes]  #: see `kollacast.files.tree_digest.digest_pieces`


class ReadAhead:
    """Buffers of the image in order, the last one empty.

    As many as the ``plan`` has in flight and some more are allocated, once there is something
    to put into each; ``packets_next()`` tells how many packets the next one gets.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        history: History,
        reader: Worker,
        digest_worker: Worker,
        packets_next: Callable[[], int],
    ) -> None:
        self._plan = plan
        self._source = source
        self._digester = Digester(*plan.digests)
        self._reader = reader
        self._digest_worker = digest_worker
        self._packets_next = packets_next
        self._history = history
        self._unallocated = plan.window + _READ_AHEAD
        self._allocated = 0
        self._over: Deferred[None] = Deferred()
        self._failure: Failure | None = None
        self._free: DeferredQueue[PacketBuffer] = DeferredQueue()
        self._filled: DeferredQueue[Filled] = DeferredQueue()

    def start(self) -> Deferred[None]:
        """Begin to read; fires when all is read.

        Fails with OSError, with UnexpectedImage, or with MemoryError where there is not even one
        buffer, and then the empty buffer has not come out: nobody has been told of an end.
        """
        Deferred.fromCoroutine(self._read()).addCallbacks(self._end, self._fail)
        return self._over

    def next(self) -> Deferred[Filled]:
        """The next filled buffer; an empty one after the last one."""
        return self._filled.get()

    def release(self, buffer: PacketBuffer) -> None:
        """The packets of ``buffer`` are not needed any more."""
        self._free.put(buffer)

    async def digests(self) -> dict[str, bytes]:
        """The plan's digests of all that was read; ask once all is read.

        Fails where a part of it could not be digested.
        """
        values = await self._digest_worker.run(self._digester.values)
        if self._failure is not None:
            self._failure.raiseException()
        return values

    async def _read(self) -> None:
        while True:
            buffer = await self._next_free()
            size = await self._reader.run(self._fill, buffer, self._packets_next())
            digested = self._digest_worker.run(
                self._digest, buffer.payload[:size], self._history.bytes_read
            )
            await self._check(size)
            self._history.passed(size)
            # The next one is read while this is digested.
            digested.addCallback(self._digested, buffer, size).addErrback(self._fail)
            if size == 0:
                return

    def _end(self, _: None) -> None:
        if not self._over.called:
            self._over.callback(None)

    def _fail(self, failure: Failure) -> None:
        """Nothing comes of it any more: who waits for buffers would wait for ever."""
        self._failure = self._failure or failure
        if not self._over.called:
            self._over.errback(failure)

    def _digest(self, data: memoryview, offset: int) -> Sequence[bytes]:
        pieces = digest_pieces(data, offset)
        self._digester.take(data, pieces)
        return pieces

    def _digested(self, pieces: Sequence[bytes], buffer: PacketBuffer, size: int) -> None:
        self._filled.put(Filled(buffer, size, pieces))

    async def _check(self, size: int) -> None:
        """``size`` more bytes are read, or the end for 0."""
        expectation = self._plan.expectation
        total = self._history.bytes_read + size
        if size:
            expectation.check_size_so_far(total)
            return
        expectation.check_size(total)
        if expectation.digests:
            expectation.check_digests(await self._digest_worker.run(self._digester.values))

    def _fill(self, buffer: PacketBuffer, packets: int) -> int:
        size = buffer.fill(self._source.readinto, packets)
        self._history.keep(buffer.payload[:size])
        return size

    def _next_free(self) -> Deferred[PacketBuffer]:
        if self._unallocated and not self._free.pending:
            self._allocate()
        return self._free.get()

    def _allocate(self) -> None:
        """Have one buffer more. Where there is no memory for it, those that go round have to do.

        Raises MemoryError where there are none.
        """
        try:
            buffer = PacketBuffer(self._plan.capacity, self._plan.buffer_packets)
        except OSError as error:
            size = self._plan.capacity * self._plan.buffer_packets
            why = (
                f"no memory for a buffer of {size} bytes: {error.strerror}. --buffer-packets and"
                " --window take less of it"
            )
            if not self._allocated:
                raise MemoryError(why) from None
            _log.warn(
                "{why}. Going on with {count}",
                event="memory-short",
                why=why,
                count=self._allocated,
            )
            self._unallocated = 0
        else:
            self._unallocated -= 1
            self._allocated += 1
            self._free.put(buffer)
