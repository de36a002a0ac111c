"""The client's TCP connection: bytes in, messages to the run, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure

from kollacast.transport.keepalive import watch_peer
from kollacast.transport.outgoing import Outgoing
from kollacast.transport.send_queue import SendQueue
from kollacast.wire.messages import Message
from kollacast.wire.parser import ServerStream
from kollacast.wire.structures import WireError


class Run(Interface):
    """What the connection tells the run it belongs to."""

    def connected(self, connection: ServerConnection) -> None:
        """The connection is open; nothing has been read."""

    def received(self, message: Message) -> None:
        """The server says something.  May raise WireError."""

    def broken(self, error: WireError) -> None:
        """The server broke the protocol."""

    def lost(self, connection: ServerConnection, reason: Failure) -> None:
        """The connection is closed."""


def _nothing(_: SendQueue) -> None:
    """A client's messages are all small: none is made piece by piece."""


class ServerConnection(Protocol):
    """One attempt to talk to the server."""

    transport: Any

    def __init__(self, run: Run) -> None:
        self.stream = ServerStream()
        #: Whether anything at all has come.
        self.has_heard = False
        self._run = run
        self._closed = False

    def connectionMade(self) -> None:
        watch_peer(self.transport, always_reads=True)
        self._outgoing = Outgoing(self.transport, _nothing)
        self._run.connected(self)

    def dataReceived(self, data: bytes) -> None:
        if self._closed:
            return
        self.has_heard = True
        try:
            for message in self.stream.feed(data):
                self._run.received(message)
                if self._closed:
                    return
        except WireError as error:
            self._run.broken(error)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._closed = True
        self._outgoing.stopProducing()
        self._run.lost(self, reason)

    @property
    def local_ip(self) -> str:
        """This host's address, as the connection has it."""
        return str(self.transport.getHost().host)

    @property
    def server_ip(self) -> str:
        """The server's address."""
        return str(self.transport.getPeer().host)

    def send(self, message: bytes) -> None:
        """Send a message, unless the connection is closed."""
        if not self._closed:
            self._outgoing.send(message)

    def expect_packets(self, count: int) -> None:
        """So many retransmissions have been asked for."""
        self.stream.expect_packets(count)

    def close(self) -> None:
        """Close once all that was sent has left; nothing more is heard."""
        if not self._closed:
            self._closed = True
            self._outgoing.close()

    def await_close(self) -> None:
        """All is said, and nothing more is heard: the server closes once it has read it."""
        self._closed = True

    def abort(self) -> None:
        """Close at once."""
        self._closed = True
        self.transport.abortConnection()


class ServerConnectionFactory(ClientFactory):
    """Makes a :class:`ServerConnection` for each attempt."""

    noisy = False

    def __init__(self, make: Callable[[], ServerConnection]) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> ServerConnection:
        return self._make()
