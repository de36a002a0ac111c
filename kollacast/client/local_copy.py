"""The copy of the image on this host: what of it is here, over all connections of a run."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.client.endings import Failed, NoCopy
from kollacast.client.terms import Terms
from kollacast.files.digest import Digester
from kollacast.files.sink import Sink
from kollacast.operator.expectation import Expectation, UnexpectedImage
from kollacast.receiving.output import Output
from kollacast.receiving.tally import Tally
from kollacast.transport.worker import TimedWorker, Worker

_log = Logger()


class LocalCopy:
    """An image that comes to ``sink``, and must be as ``expectation`` says.

    ``failed`` is told of what cannot be kept; ``seconds`` tells the time.
    """

    def __init__(
        self,
        sink: Sink,
        expectation: Expectation,
        disk: Worker,
        digest_worker: Worker,
        failed: Callable[[Failure], None],
        seconds: Callable[[], float],
    ) -> None:
        #: What was agreed on last, with a server that has the image.
        self.terms: Terms | None = None
        #: None as long as nothing is agreed on.
        self.output: Output | None = None
        self.tally = Tally()
        #: Whether multicast has passed this host by, from a connection's beginning to its end.
        self.is_unreached = False
        #: Its digests by their names, once all of it is here.
        self.digests: dict[str, bytes] = {}
        #: Whether it is whole, verified, and under its name.
        self.is_whole = False
        self._sink = sink
        self._expectation = expectation
        self._disk = TimedWorker(disk, seconds)
        self._digest_worker = digest_worker
        self._failed = failed
        self._is_given_up = False
        self._committing: Deferred[None] | None = None

    @property
    def bytes_kept(self) -> int:
        """How many bytes are here, from the first one on."""
        return self.output.bytes_kept if self.output is not None else 0

    @property
    def seconds_writing(self) -> float:
        """For which the disk has been busy with it."""
        return self._disk.busy_s

    @property
    def can_receive_late(self) -> bool:
        """Whether the image may come from two sides; asked after :meth:`look`."""
        return self._sink.can_skip and not self.is_unreached

    async def look(self, terms: Terms) -> int:
        """How many bytes are here of the image that a server offers.

        What is here of another image goes away.  Raises NoCopy where it cannot, and OSError.
        """
        if not terms.shape.dialect.introduces:
            # It does not say which image it has.
            if self.bytes_kept:
                raise _other_image()
            self.output = None
            return 0
        if self.output is not None:
            if self.terms is not None and self._is_same_image(self.terms, terms):
                return self.output.bytes_kept
            self.output = None
            _log.warn("the server has another image now: starting over", event="image-changed")
            try:
                await self._disk.run(self._sink.restart)
            except OSError:
                raise _other_image() from None
        if self._is_given_up or not terms.shape.can_fetch:
            return 0
        # What is expected says more of an image than any server: no other name of it makes a part
        # that is here worthless.
        identity = self._expectation.identity or terms.greeting.image
        return await self._disk.run(self._sink.resume, identity, terms.shape.capacity)

    def take_up(self, terms: Terms, kept: int) -> Output:
        """Go on behind the ``kept`` bytes that are here."""
        if self.output is None:
            digester = Digester(*self._digest_names(terms))
            self.output = Output(
                self._sink,
                digester,
                self._disk,
                self._digest_worker,
                kept,
                self._failed,
                terms.greeting.size,
            )
            if terms.greeting.size is not None:
                self._disk.run(self._sink.expect, terms.greeting.size).addErrback(self._failed)
            if kept:
                _log.info(
                    "{kept} bytes are here already: going on behind them",
                    event="resumed",
                    kept=kept,
                )
        return self.output

    def settled(self) -> Deferred[None]:
        """Fires once nothing is under way to the disk."""
        return self.output.settled() if self.output is not None else succeed(None)

    async def prove(self, told: bytes | None) -> None:
        """Compare digests, with the one that the server has ``told``, too, and give it its name.

        Raises NoCopy where it is another image, and OSError.
        """
        assert self.output is not None
        assert self.terms is not None
        name, size = self.terms.greeting.digest, self.terms.greeting.size
        if size is not None and size != self.bytes_kept:
            raise NoCopy(f"the image has {self.bytes_kept} bytes, and was announced with {size}")
        digests = self.digests = await self.output.digests()
        digest = digests[name]
        if self._is_given_up:
            return
        if told is not None and digest != told:
            raise NoCopy(
                f"the image is not the server's: its {name} is {digest.hex()},"
                f" the server's {told.hex()}"
            )
        try:
            self._expectation.check_digests(digests)
        except UnexpectedImage as error:
            raise NoCopy(str(error)) from None
        self._committing = Deferred()
        try:
            await self._disk.run(self._sink.commit, f"{name}:{digest.hex()}")
            self.is_whole = True
        finally:
            self._committing.callback(None)

    def _digest_names(self, terms: Terms) -> tuple[str, ...]:
        also = ("tree",) if terms.shape.dialect.proves else ()
        names = (terms.greeting.digest, *also, *self._expectation.digest_names)
        return tuple(dict.fromkeys(names))

    def _is_same_image(self, terms: Terms, other: Terms) -> bool:
        """Whether what was kept on these terms can be gone on with on the ``other`` ones."""
        if self._expectation.identity is None:
            return terms.is_same_image(other)
        return terms.greeting.digest == other.greeting.digest and other.shape.can_fetch

    def close(self, failed: Failed | None) -> Deferred[None]:
        """Nothing more is to be done: fires after a commit that is under way.

        Where the run has ``failed``, the image will not be whole, unless that is quicker.
        """
        if failed is not None:
            self._is_given_up = True
            self._sink.abandon(failed.keep)
        self._disk.stop()
        self._digest_worker.stop()
        return self._committing or succeed(None)


def _other_image() -> NoCopy:
    return NoCopy(
        "the server has another image now, and a part of the first one is written already"
    )
