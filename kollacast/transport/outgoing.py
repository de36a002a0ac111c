"""Moves a send queue into a TCP transport, as fast as the peer reads and no faster."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IPushProducer, ITransport
from zope.interface import implementer

from kollacast.transport.send_queue import SendQueue

#: Bytes handed to the transport at a time.
_CHUNK = 128 * 1024


@implementer(IPushProducer)
class Outgoing:
    """A streaming producer over a :class:`SendQueue`.

    ``refill(queue)`` is called whenever the queue has run empty and the
    transport takes more: it appends what comes next, or nothing.  So large
    answers are made piece by piece, when there is room for them.
    """

    def __init__(self, transport: ITransport, refill: Callable[[SendQueue], None]) -> None:
        self.queue = SendQueue()
        #: Handed to the transport so far.
        self.bytes_sent = 0
        self._transport = transport
        self._refill = refill
        self._paused = False
        self._closed = False
        transport.registerProducer(self, True)  # type: ignore[attr-defined]

    def send(self, message: bytes) -> None:
        """Send a message behind all that wait; once closed, a no-op."""
        if not self._closed:
            self.queue.append(message)
            self.pump()

    def pump(self) -> None:
        """Hand on what waits, until the transport has enough."""
        while not self._paused and not self._closed:
            if not self.queue:
                self._refill(self.queue)
                if not self.queue:
                    return
            self._write()

    def close(self) -> None:
        """Close the connection once all that waits has left."""
        if not self._closed:
            self._closed = True
            self._transport.unregisterProducer()  # type: ignore[attr-defined]
            while self.queue:
                self._write()
            self._transport.loseConnection()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self.pump()

    def stopProducing(self) -> None:
        self._closed = True

    def _write(self) -> None:
        piece = self.queue.flatten(_CHUNK)
        self.bytes_sent += len(piece)
        self._transport.write(piece)
