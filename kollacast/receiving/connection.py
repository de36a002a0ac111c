"""The TCP connection to the server: bytes in, messages to who listens, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure

from kollacast.events.guard import Guard
from kollacast.transport.keepalive import watch_peer
from kollacast.transport.outgoing import Outgoing
from kollacast.wire.messages import Message
from kollacast.wire.parser import ServerStream
from kollacast.wire.structures import WireError


class Listener(Interface):
    """Who hears what comes of a connection."""

    def connected(self) -> None:
        """The connection is open; nothing has been read."""

    def received(self, message: Message) -> None:
        """The server says something.  May raise WireError."""

    def broken(self, error: WireError) -> None:
        """The server broke the protocol."""

    def lost(self) -> None:
        """The connection is closed."""


class ServerConnection(Protocol):
    """One connection to the server; nothing is raised from it but told to ``guard``."""

    transport: ITCPTransport

    def __init__(self, listener: Listener, guard: Guard) -> None:
        self.stream = ServerStream()
        #: Whether anything at all has come.
        self.has_heard = False
        #: Fires once it is closed.
        self.closed: Deferred[None] = Deferred()
        self._listener = listener
        self._guard = guard
        self._is_closed = False

    def connectionMade(self) -> None:
        self._guarded(self._open)

    def dataReceived(self, data: bytes) -> None:
        if not self._is_closed:
            self._guarded(self._read, data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._is_closed = True
        self.closed.callback(None)
        self._guarded(self._lose)

    def _guarded(self, function: Callable[..., None], *args: object) -> None:
        try:
            function(*args)
        except Exception:
            self._guard.failed(Failure())
            if not self._is_closed:
                self.abort()

    def _open(self) -> None:
        # A client's messages are all small: none is made piece by piece.
        self._outgoing = Outgoing(self.transport, lambda _: None)
        self._listener.connected()
        try:
            watch_peer(self.transport, always_reads=True)
        except OSError:
            self.abort()  # it is closed by now

    def _lose(self) -> None:
        self._outgoing.stopProducing()
        self._listener.lost()

    def _read(self, data: bytes) -> None:
        self.has_heard = True
        try:
            for message in self.stream.feed(data):
                self._listener.received(message)
                if self._is_closed:
                    return
        except WireError as error:
            self._listener.broken(error)

    @property
    def local_ip(self) -> str:
        """This host's address on the way to the server."""
        return str(self.transport.getHost().host)

    @property
    def server_ip(self) -> str:
        """The server's address."""
        return str(self.transport.getPeer().host)

    def send(self, message: bytes) -> None:
        """Send a message, unless the connection is closed."""
        if not self._is_closed:
            self._outgoing.send(message)

    def expect_packets(self, count: int) -> None:
        """So many retransmissions have been asked for."""
        self.stream.expect_packets(count)

    def close(self) -> None:
        """Close once all that was sent has left; nothing more is heard."""
        if not self._is_closed:
            self._is_closed = True
            self._outgoing.close()

    def await_close(self) -> None:
        """All is said, and nothing more is heard: the server closes once it has read it."""
        self._is_closed = True

    def abort(self) -> None:
        """Close at once."""
        self._is_closed = True
        self.transport.abortConnection()


class ServerConnectionFactory(ClientFactory):
    """Makes a :class:`ServerConnection` where one is needed."""

    noisy = False

    def __init__(self, make: Callable[[], ServerConnection | None]) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> ServerConnection | None:
        return self._make()
