"""The image as it is kept and digested, from its start on and, at times, from further on as well.

It outlives a connection: whatever brings the next bytes goes on behind the
last ones that were kept.  A client that comes late has two ends to write at:
the *head*, without a gap from the image's first byte on, and the *tail*, which
begins where the client has joined.  Once the head reaches the tail, they are one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, FirstError, gatherResults, succeed
from twisted.python.failure import Failure

from kollacast.events.observer import Observer
from kollacast.files.digest import Digester
from kollacast.files.sink import Sink
from kollacast.transport.worker import Worker

#: Bytes that are read back and digested in one go.
_PIECE = 16 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Tail:
    """Bytes from ``start`` on: kept up to ``end``, and handed over up to ``put``."""

    start: int
    end: int
    put: int


class Output:
    """Keeps an image in ``sink``, in ``disk``'s thread, and digests it in another.

    ``bytes_kept`` are there already, of an earlier run.  Bytes are digested in
    order: as they come, where nothing before them is left to digest, else by
    reading them back once they are part of the head.
    """

    def __init__(
        self,
        sink: Sink,
        digester: Digester,
        disk: Worker,
        digest_worker: Worker,
        bytes_kept: int = 0,
    ) -> None:
        #: The length of the head.
        self.bytes_kept = bytes_kept
        #: How many bytes of it an earlier run has brought.
        self.bytes_resumed = bytes_kept
        #: Called with the failure of what cannot be kept: nothing goes on behind a gap.
        self.failed: Callable[[Failure], None] = lambda failure: None
        self.digester = digester
        self._sink = sink
        self._disk = disk
        self._digest_worker = digest_worker
        self._put = bytes_kept  # the head with what is under way to it
        self._tail: _Tail | None = None
        # Bytes of tails that were dropped may lie between the head and here.
        self._dropped_end = 0
        self._is_marked = False
        self._digested = 0  # with what is under way to the digester
        self._reading_back = False
        self._under_way = 0
        self._settling: Observer[None] = Observer()
        self._catching_up: Observer[None] = Observer()

    def begin(self) -> None:
        """Digest what is there already; to be called once, when :attr:`failed` is set."""
        self._catch_up()

    def keep(self, views: Sequence[memoryview]) -> Deferred[None]:
        """Go on at the head; fires once the bytes of ``views`` need not be there any more.

        Fails with OSError when the sink does.
        """
        offset = self._put
        self._put += sum(map(len, views))
        return self._write(offset, views, None)

    def begin_tail(self, offset: int) -> None:
        """:meth:`keep_tail` begins at ``offset``, which may lie inside the head.

        For a sink that can :attr:`~kollacast.files.sink.Sink.skip` only.
        """
        self._tail = _Tail(offset, offset, offset)
        self._mark()

    def keep_tail(self, views: Sequence[memoryview]) -> Deferred[None]:
        """Go on at the tail, as :meth:`keep` does at the head."""
        tail = self._tail
        assert tail is not None
        offset = tail.put
        tail.put += sum(map(len, views))
        return self._write(offset, views, tail)

    def drop_tail(self) -> None:
        """Forget what is not part of the head; no-op without a tail."""
        tail, self._tail = self._tail, None
        if tail is not None and self.bytes_kept < tail.start:
            self._dropped_end = max(self._dropped_end, tail.put)

    def settled(self) -> Deferred[None]:
        """Fires once nothing is under way: :attr:`bytes_kept` then stands still."""
        return self._settling.wait() if self._under_way else succeed(None)

    async def digest(self) -> bytes:
        """The digest of all that was kept, once nothing is under way."""
        if self._digested < self.bytes_kept:
            await self._catching_up.wait()
        return await self._digest_worker.run(self.digester.value)

    async def commit(self, digest: bytes) -> None:
        """Give the image, whose digest this is, its name."""
        await self._disk.run(self._sink.commit, f"{self.digester.name}:{digest.hex()}")

    # Writing.

    def _write(
        self, offset: int, views: Sequence[memoryview], tail: _Tail | None
    ) -> Deferred[None]:
        size = sum(map(len, views))
        self._under_way += 1
        work: list[Deferred[None]] = [self._disk.run(self._sink.write, views, offset)]
        if offset == self._digested:
            self._digested += size
            work.append(self._digest_worker.run(self.digester.update, views))
        kept = gatherResults(work, consumeErrors=True)
        return kept.addCallback(self._kept, size, tail).addErrback(self._not_kept)

    def _kept(self, _: object, size: int, tail: _Tail | None) -> None:
        if tail is None:
            self.bytes_kept += size
            tail = self._tail
        else:
            tail.end += size
        if tail is not None:
            self._join(tail)
        self._mark()
        self._catch_up()
        self._settle()

    def _join(self, tail: _Tail) -> None:
        """The head takes over what is kept of a tail that it has reached."""
        if tail.start <= self.bytes_kept < tail.end:
            self.bytes_kept = tail.end

    def _mark(self) -> None:
        """Tell the sink how far the head goes, as long as there may be bytes beyond it."""
        tail = self._tail
        is_apart = tail is not None and self.bytes_kept < tail.start
        is_apart = is_apart or self.bytes_kept < self._dropped_end
        if is_apart or self._is_marked:
            self._is_marked = is_apart
            marking = self._disk.run(self._sink.mark, self.bytes_kept if is_apart else None)
            marking.addErrback(self._fail)

    def _not_kept(self, failure: Failure) -> Failure:
        first = failure.value
        reason = first.subFailure if isinstance(first, FirstError) else failure
        self.failed(reason)
        self._settle()
        return reason

    def _settle(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._put = self.bytes_kept
            self._settling.fire(None)

    # Digesting what is not digested as it comes.

    def _catch_up(self) -> None:
        if self._reading_back:
            return
        if self._digested >= self.bytes_kept:
            self._catching_up.fire(None)
            return
        self._reading_back = True
        size = min(_PIECE, self.bytes_kept - self._digested)
        reading = self._digest_worker.run(self._digest_kept, self._digested, size)
        self._digested += size
        reading.addCallback(self._caught_up).addErrback(self._fail)

    def _caught_up(self, _: None) -> None:
        self._reading_back = False
        self._catch_up()

    def _digest_kept(self, at: int, size: int) -> None:
        self.digester.update([memoryview(self._sink.read_back(at, size))])

    def _fail(self, failure: Failure) -> None:
        self.failed(failure)
