"""Who watches the page: each is sent what changes, and skips what it is too slow for."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from kollacast.status.board import Board

#: More do not watch at a time.
MOST_VIEWERS = 16
#: Seconds without room for a single byte more, until a viewer is given up.
_STALLED_S = 30.0


class Stream(Protocol):
    """The response to one viewer, which goes on."""

    def registerProducer(self, producer: object, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def write(self, data: bytes) -> object: ...
    def finish(self) -> object: ...  # once all is read
    def abort(self) -> None: ...  # at once


@implementer(IPushProducer)
class Viewer:
    """One of them.

    It has the transport's buffer, and one event more, at the most: what comes while that is full is
    left out, and the next event then tells all anew.
    """

    def __init__(self, clock: IReactorTime, stream: Stream) -> None:
        self._clock = clock
        self._stream = stream
        self._full_since: float | None = None
        # Whether it knows the last look.
        self._is_up_to_date = False
        stream.registerProducer(self, True)

    @property
    def is_stalled(self) -> bool:
        """Whether it has not read for so long that nobody will."""
        return (
            self._full_since is not None and self._clock.seconds() - self._full_since > _STALLED_S
        )

    def tell(self, board: Board) -> None:
        """There was another look."""
        if self._full_since is not None:
            self._is_up_to_date = False
            return
        event = board.change() if self._is_up_to_date else board.whole()
        self._is_up_to_date = True
        self._stream.write(event)

    def end(self) -> None:
        """There will be no other."""
        self._stream.unregisterProducer()
        self._stream.finish()

    def abort(self) -> None:
        """It is given up."""
        self._stream.abort()

    # From the transport.

    def pauseProducing(self) -> None:
        if self._full_since is None:
            self._full_since = self._clock.seconds()

    def resumeProducing(self) -> None:
        self._full_since = None

    def stopProducing(self) -> None:
        """It is gone, which the stream says to who opened it."""


class Viewers:
    """All of them."""

    def __init__(self, clock: IReactorTime, board: Board) -> None:
        self._clock = clock
        self._board = board
        self._viewers: dict[Stream, Viewer] = {}

    @property
    def has_room(self) -> bool:
        """Whether one more may watch."""
        return len(self._viewers) < MOST_VIEWERS

    def add(self, stream: Stream) -> None:
        """One more begins with all of the last look."""
        viewer = self._viewers[stream] = Viewer(self._clock, stream)
        viewer.tell(self._board)
        if self._board.is_over:
            self._end(stream, viewer)

    def remove(self, stream: Stream) -> None:
        """It is gone; a no-op where that is known."""
        self._viewers.pop(stream, None)

    def tell(self) -> None:
        """There was another look; in the end, the last one."""
        for stream, viewer in list(self._viewers.items()):
            if viewer.is_stalled:
                self.remove(stream)
                viewer.abort()
                continue
            viewer.tell(self._board)
            if self._board.is_over:
                self._end(stream, viewer)
        if not self._viewers:
            self._board.rest()

    def _end(self, stream: Stream, viewer: Viewer) -> None:
        self.remove(stream)
        viewer.end()
