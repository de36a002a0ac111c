"""The image as it is kept and digested, in whatever order its bytes come.

It outlives a connection: what is kept counts, whoever brings the rest.  Which
bytes are kept is a set of intervals; most of the time it is one, from the
image's first byte on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from twisted.internet.defer import Deferred, FirstError, fail, gatherResults, succeed
from twisted.python.failure import Failure

from kollacast.events.observer import Observer
from kollacast.files.digest import Digester
from kollacast.files.sink import Sink
from kollacast.files.tree_digest import digest_pieces
from kollacast.packets.intervals import Intervals
from kollacast.receiving.pieces import ExpectedPieces
from kollacast.transport.worker import Worker

#: Bytes that are read back and digested in one go.
_PIECE = 16 * 1024 * 1024


class Keeping(NamedTuple):
    """Bytes on their way."""

    #: fires with the numbers of wrong pieces; where there are some, nothing is kept
    proved: Deferred[list[int]]
    #: fires once they are kept and need not be there any more; never, where they are not kept
    kept: Deferred[None]


#: Keeps bytes behind those of the call before, once they are what is expected of their pieces.
Writer = Callable[[Sequence[memoryview], ExpectedPieces | None], Keeping]


class TooLong(Exception):
    """More comes of an image than it was announced to have; the text says so."""


class Output:
    """Keeps an image in ``sink``, in ``disk``'s thread, and digests it in another.

    The first ``bytes_resumed`` are there already, of an earlier run.  No more than ``most_bytes``
    are kept, where that is known.  Bytes are digested in
    order: as they come, where nothing before them is left to digest, else by
    reading them back once there is no gap before them.  ``failed`` is called with the
    failure of what cannot be kept: nothing goes on behind a gap.
    """

    def __init__(
        self,
        sink: Sink,
        digester: Digester,
        disk: Worker,
        digest_worker: Worker,
        bytes_resumed: int,
        failed: Callable[[Failure], None],
        most_bytes: int | None = None,
    ) -> None:
        self.bytes_resumed = bytes_resumed
        self._most_bytes = most_bytes
        self._digester = digester
        self._failed = failed
        self._sink = sink
        self._disk = disk
        self._digest_worker = digest_worker
        self._kept = Intervals()
        self._handed_over = Intervals()  # what is kept, and what is under way to the disk
        self._kept.add(0, bytes_resumed)
        self._handed_over.add(0, bytes_resumed)
        self._is_marked = False
        self._digested = 0  # with what is under way to the digester
        self._is_reading_back = False
        self._under_way = 0
        self._settling: Observer[None] = Observer()
        self._catching_up: Observer[None] = Observer()
        self._catch_up()

    @property
    def bytes_kept(self) -> int:
        """How many bytes are kept from the image's first byte on, up to the first gap."""
        return self._kept.reach

    def writer(self, offset: int) -> Writer:
        """What is given to the writer is kept from ``offset`` on.

        Behind a gap only for a sink that can :attr:`~kollacast.files.sink.Sink.skip`.
        What it returns fails with OSError when the sink does.  Where pieces are expected, ``views``
        is one, and what is given next waits until these are proved.
        """

        def keep(views: Sequence[memoryview], pieces: ExpectedPieces | None) -> Keeping:
            nonlocal offset
            start, end = offset, offset + sum(map(len, views))
            if pieces is None:
                offset = end
                return Keeping(succeed([]), self._write(start, end, views))

            def proved(wrong: list[int]) -> list[int]:
                nonlocal offset
                if not wrong:
                    offset = end
                return wrong

            (view,) = views
            keeping = self._prove(start, end, view, pieces)
            keeping.proved.addCallback(proved)
            return keeping

        return keep

    def settled(self) -> Deferred[None]:
        """Fires once nothing is under way: :attr:`bytes_kept` then stands still."""
        return self._settling.wait() if self._under_way else succeed(None)

    async def digests(self) -> dict[str, bytes]:
        """The digests of all that was kept, by their names, once nothing is under way."""
        if self._digested < self.bytes_kept:
            await self._catching_up.wait()
        return await self._digest_worker.run(self._digester.values)

    # Writing.

    def _prove(self, start: int, end: int, view: memoryview, pieces: ExpectedPieces) -> Keeping:
        """Write what is proved; with it the image is digested, where all before has been."""
        self._under_way += 1
        is_next = start == self._digested
        if is_next:
            self._digested = end
        kept: Deferred[None] = Deferred()

        def proved(wrong: list[int]) -> list[int]:
            if not wrong:
                self._write(start, end, [view], is_digested=is_next).chainDeferred(kept)
            elif is_next:
                self._digested = start
            self._settle()
            return wrong

        proving = self._digest_worker.run(self._digest_pieces, view, pieces, is_next)
        return Keeping(proving.addCallbacks(proved, self._not_kept), kept)

    def _digest_pieces(self, view: memoryview, pieces: ExpectedPieces, is_next: bool) -> list[int]:
        digests = digest_pieces(view, pieces.offset)
        wrong = pieces.wrong(digests)
        if is_next and not wrong:
            # While it is in the processor's cache.
            self._digester.take(view, digests)
        return wrong

    def _write(
        self, start: int, end: int, views: Sequence[memoryview], *, is_digested: bool = False
    ) -> Deferred[None]:
        if self._most_bytes is not None and end > self._most_bytes:
            failure = Failure(TooLong(f"the image goes on beyond its {self._most_bytes} bytes"))
            self._failed(failure)
            return fail(failure)
        self._under_way += 1
        self._handed_over.add(start, end)
        if not self._is_marked:
            self._mark()
        work: list[Deferred[None]] = [self._disk.run(self._sink.write, views, start)]
        if start == self._digested and not is_digested:
            self._digested = end
            work.append(self._digest_worker.run(self._digester.update, views))
        kept = gatherResults(work, consumeErrors=True)
        return kept.addCallback(self._is_kept, start, end).addErrback(self._not_kept)

    def _is_kept(self, _: object, start: int, end: int) -> None:
        self._kept.add(start, end)
        self._mark()
        self._catch_up()
        self._settle()

    def _mark(self) -> None:
        """Tell the sink how far it goes without a gap, as long as there may be bytes beyond it."""
        has_gap = self._kept.has_gap or self._handed_over.has_gap
        if has_gap or self._is_marked:
            self._is_marked = has_gap
            marking = self._disk.run(self._sink.mark, self.bytes_kept if has_gap else None)
            marking.addErrback(self._failed)

    def _not_kept(self, failure: Failure) -> Failure:
        first = failure.value
        reason = first.subFailure if isinstance(first, FirstError) else failure
        self._failed(reason)
        self._settle()
        return reason

    def _settle(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._settling.fire(None)

    # Digesting what is not digested as it comes.

    def _catch_up(self) -> None:
        if self._is_reading_back:
            return
        if self._digested >= self.bytes_kept:
            self._catching_up.fire(None)
            return
        self._is_reading_back = True
        size = min(_PIECE, self.bytes_kept - self._digested)
        reading = self._digest_worker.run(self._digest_kept, self._digested, size)
        self._digested += size
        reading.addCallback(self._caught_up).addErrback(self._failed)

    def _caught_up(self, _: None) -> None:
        self._is_reading_back = False
        self._catch_up()

    def _digest_kept(self, at: int, size: int) -> None:
        self._digester.update([memoryview(self._sink.read_back(at, size))])
