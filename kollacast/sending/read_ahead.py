"""Reads the image ahead of the multicast, into buffers that go round.

Reading and digesting run in a thread each; a buffer comes out as soon as it
is read, and goes in again once it is released and digested.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.files.digest import Digester
from kollacast.files.source import Source
from kollacast.packets.buffer import PacketBuffer
from kollacast.sending.history import History
from kollacast.sending.plan import Plan
from kollacast.transport.worker import Worker

_log = Logger()

#: Buffers that are filled while a full window is in flight.
_READ_AHEAD = 1


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
        self._filled: DeferredQueue[tuple[PacketBuffer, int]] = DeferredQueue()
        self._digested: dict[PacketBuffer, Deferred[None]] = {}

    def start(self) -> Deferred[None]:
        """Begin to read; fires when all is read.

        Fails with OSError, with UnexpectedImage, or with MemoryError where there is not even one
        buffer, and then the empty buffer has not come out: nobody has been told of an end.
        """
        Deferred.fromCoroutine(self._read()).addCallbacks(self._end, self._fail)
        return self._over

    def next(self) -> Deferred[tuple[PacketBuffer, int]]:
        """The next filled buffer and its payload size; 0 after the last one."""
        return self._filled.get()

    def release(self, buffer: PacketBuffer) -> None:
        """The packets of ``buffer`` are not needed any more."""
        digested = self._digested.pop(buffer, None)
        if digested is None:
            self._free.put(buffer)
        else:
            digested.addCallback(lambda _: self._free.put(buffer))

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
            if size:
                digested = self._digest_worker.run(self._digester.update, [buffer.payload[:size]])
                self._digested[buffer] = digested.addErrback(self._fail)
            await self._check(size)
            self._history.passed(size)
            self._filled.put((buffer, size))
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
