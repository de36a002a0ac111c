"""The TCP connection to the server: bytes in, messages to who listens, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from kollacast.events.guard import Guard
from kollacast.transport.keepalive import watch_peer
from kollacast.transport.outgoing import Outgoing
from kollacast.wire.greeting import GroupInfo, Refusal
from kollacast.wire.messages import Message
from kollacast.wire.parser import ServerStream
from kollacast.wire.structures import WireError

if TYPE_CHECKING:
    # It is loaded where there is TLS, and takes its time.
    from kollacast.transport.tls import Secured


@implementer(IHandshakeListener)
class ServerConnection(Protocol):
    """One connection to the server; nothing is raised from it but told to ``guard``.

    ``opened`` is called before anything is read, ``received`` with each message, from which it
    may raise WireError, and ``lost`` when the connection is closed, or with the WireError that
    makes it of no more use.  ``is_secure`` says that it is on TLS.
    """

    transport: ITCPTransport

    def __init__(
        self,
        opened: Callable[[], None],
        received: Callable[[Message], None],
        lost: Callable[[WireError | None], None],
        guard: Guard,
        *,
        is_secure: bool = False,
    ) -> None:
        self.stream = ServerStream()
        #: Whether anything at all has come.
        self.has_heard = False
        #: Fires once it is closed.
        self.closed: Deferred[None] = Deferred()
        self._opened = opened
        self._received = received
        self._lost = lost
        self._guard = guard
        self._is_secure = is_secure
        self._is_closed = False

    def connectionMade(self) -> None:
        self._guarded(self._open)

    def dataReceived(self, data: bytes) -> None:
        if not self._is_closed:
            self._guarded(self._read, data)

    def handshakeCompleted(self) -> None:
        self._guarded(self._judge)

    def spoke_plainly(self, data: bytes) -> None:
        """TLS is due, and the server has said this."""
        if not self._is_closed:
            self._guarded(self._read_plainly, data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._is_closed = True
        self.closed.callback(None)
        self._guarded(self._lose, reason)

    @property
    def binding(self) -> bytes:
        """What the two ends have in common, and nobody else; empty without TLS."""
        return self._secured.binding if self._secured is not None else b""

    @property
    def _secured(self) -> Secured | None:
        return cast("Secured", self.transport) if self._is_secure else None

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
        self._opened()
        try:
            watch_peer(self.transport, always_reads=True)
        except OSError:
            self.abort()  # it is closed by now

    def _judge(self) -> None:
        """Whose certificate has the server?  It speaks next, and is not heard if it is wrong."""
        objection = None if self._secured is None else self._secured.judge()
        if objection is not None:
            self._lost(WireError(objection))
            self.abort()

    def _lose(self, reason: Failure) -> None:
        self._outgoing.stopProducing()
        # What has gone well for a while may do so again.
        secured = None if self.has_heard else self._secured
        why = None if secured is None else secured.why_lost(reason)
        self._lost(None if why is None else WireError(why))

    def _read_plainly(self, data: bytes) -> None:
        try:
            for message in self.stream.feed(data):
                if isinstance(message, Refusal) and message.tls:
                    # TLS from here has not come in time.
                    self._lost(None)
                    return
                is_jasmine = isinstance(message, GroupInfo)
                what = "jasmine, which has no TLS," if is_jasmine else "without TLS"
                raise WireError(f"it speaks {what} and so does not prove who it is")
        except WireError as error:
            self._lost(error)

    def _read(self, data: bytes) -> None:
        self.has_heard = True
        try:
            for message in self.stream.feed(data):
                self._received(message)
                if self._is_closed:
                    return
        except WireError as error:
            self._lost(error)

    def send(self, message: bytes) -> None:
        """Send a message, unless the connection is closed."""
        if not self._is_closed:
            self._outgoing.send(message)

    def close(self, *, waits: bool) -> None:
        """Nothing more is heard: close once all has left, or wait until the server does."""
        if not self._is_closed:
            self._is_closed = True
            if not waits:
                self._outgoing.close()

    def abort(self) -> None:
        """Close at once."""
        self._is_closed = True
        self.transport.abortConnection()
