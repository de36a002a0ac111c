"""Where the image goes as it comes in, in order: to the sink and into the digest.

It outlives a connection: whatever brings the next bytes goes on behind the
last ones that were kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, FirstError, gatherResults, succeed
from twisted.python.failure import Failure

from kollacast.core.digest import Digester
from kollacast.sink import Sink
from kollacast.transport.worker import Worker

#: Bytes that are read back and digested in one go.
_PIECE = 16 * 1024 * 1024


class Output:
    """Keeps an image in ``sink``, in ``disk``'s thread, and digests it in another.

    ``bytes_kept`` are there already, of an earlier run, and :meth:`prove_kept`
    then comes before all else.
    """

    def __init__(
        self,
        sink: Sink,
        digester: Digester,
        disk: Worker,
        digest_worker: Worker,
        bytes_kept: int = 0,
    ) -> None:
        self.bytes_kept = bytes_kept
        #: Called with the failure of what cannot be kept: nothing goes on behind a gap.
        self.failed: Callable[[Failure], None] = lambda failure: None
        #: How many of them an earlier run has brought.
        self.bytes_resumed = bytes_kept
        self.digester = digester
        self._sink = sink
        self._disk = disk
        self._digest_worker = digest_worker
        self._under_way = 0
        self._waiting: list[Deferred[None]] = []

    def keep(self, views: Sequence[memoryview]) -> Deferred[None]:
        """Go on with the bytes of ``views``; fires once they need not be there any more.

        Fails with OSError when the sink does.
        """
        size = sum(map(len, views))
        self._under_way += 1
        kept = gatherResults(
            [
                self._disk.run(self._sink.write, views),
                self._digest_worker.run(self.digester.update, views),
            ],
            consumeErrors=True,
        )
        return kept.addCallback(self._kept, size).addErrback(self._not_kept)

    def settled(self) -> Deferred[None]:
        """Fires once nothing is under way: :attr:`bytes_kept` then stands still."""
        if not self._under_way:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        return waiter

    async def prove_kept(self, alive: Callable[[], None]) -> None:
        """Digest what an earlier run has kept; ``alive()`` is called after each piece."""
        for at in range(0, self.bytes_resumed, _PIECE):
            await self._digest_worker.run(
                self._digest_kept, at, min(_PIECE, self.bytes_resumed - at)
            )
            alive()

    def digest(self) -> Deferred[bytes]:
        """The digest of all that was kept."""
        return self._digest_worker.run(self.digester.value)

    def commit(self, digest: bytes) -> Deferred[None]:
        """Give the image, whose digest this is, its name."""
        return self._disk.run(self._sink.commit, f"{self.digester.name}:{digest.hex()}")

    def _digest_kept(self, at: int, size: int) -> None:
        self.digester.update([memoryview(self._sink.read_back(at, size))])

    def _kept(self, _: object, size: int) -> None:
        self.bytes_kept += size
        self._settle()

    def _not_kept(self, failure: Failure) -> Failure:
        first = failure.value
        reason = first.subFailure if isinstance(first, FirstError) else failure
        self.failed(reason)
        self._settle()
        return reason

    def _settle(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.callback(None)
