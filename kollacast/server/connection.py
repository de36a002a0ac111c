"""One client's TCP connection: bytes in, messages to the client, its queue and its timers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kollacast.server.conversation import Departure
from kollacast.server.credentials import Peer
from kollacast.server.door import Door
from kollacast.server.lobby import Lobby
from kollacast.server.participant import Host, Participant
from kollacast.transport.keepalive import watch_peer
from kollacast.transport.outgoing import Outgoing
from kollacast.wire.greeting import Refusal, clean_text
from kollacast.wire.parser import ClientStream
from kollacast.wire.structures import WireError

if TYPE_CHECKING:
    # It is loaded where there is TLS, and takes its time.
    from kollacast.transport.tls import Secured

_log = Logger()

#: What who does not speak TLS is told where it is due.
_SPEAK_TLS = "it speaks TLS: give --token-file or --tls-dir, as to the server"
#: Seconds for each step on the way to a hello: TLS, the response to a challenge, the hello.
HELLO_TIMEOUT_S = 5.0
#: Seconds in which a client must have read the last words.
_LINGER_S = 3.0


@implementer(IHandshakeListener)
class ClientProtocol(Protocol):
    """The connection to one client."""

    transport: ITCPTransport

    def __init__(self, host: Host, door: Door, lobby: Lobby[ClientProtocol], address: str) -> None:
        self.address = address
        self._door = door
        #: Who is at its other end.
        self.client = Participant(host, self, address)
        #: Fires when the connection is closed.
        self.lost: Deferred[None] = Deferred()
        #: What is sent.
        self.outgoing: Outgoing
        self._host = host
        self._lobby = lobby
        self._stream = ClientStream(
            host.plan.dialect, host.plan.max_request, is_challenged=host.credentials.challenges
        )
        self._is_open = False
        self._silent = True
        self._is_in_lobby = False
        self._is_closing = False
        self._timer: IDelayedCall | None = None
        self._guarded_hear = host.guard.wrap(self._hear)

    def connectionMade(self) -> None:
        self._host.guard.wrap(self._begin)()

    def handshakeCompleted(self) -> None:
        self._host.guard.wrap(self._meet)()

    def dataReceived(self, data: bytes) -> None:
        self._guarded_hear(data)

    def spoke_plainly(self, data: bytes) -> None:
        """It has not begun TLS, which is due, but said this."""
        self._host.guard.wrap(self._ask_for_tls)("it does not speak TLS")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._host.guard.wrap(self._lose)(reason)
        self._stop_timer()
        self.lost.callback(None)

    def end(self, reason: str | None, later: bool) -> Deferred[None]:
        """The session is over, for ``reason`` unless it has ended well; fires once it is closed.

        With ``later``, the client is to look for the next server.
        """
        self.client.talk.end(reason, later)
        return self.lost

    @property
    def bytes_sent(self) -> int:
        """Handed to the kernel, or about to be."""
        return self.outgoing.bytes_sent if self._is_open else 0

    # For the client.

    def await_hello(self) -> None:
        """Give it a while to say who it is."""
        why = f"no valid hello within {HELLO_TIMEOUT_S:g} s"
        self._set_timer(HELLO_TIMEOUT_S, self.client.talk.drop, why, Departure.LOST)
        self._enter_lobby()

    def introduced(self) -> None:
        """It has said who it is."""
        self._await_nothing()
        self._door.said_hello(self.address)

    def close(self) -> None:
        """Close once all is sent, or after a while; nothing that is heard counts any more."""
        self._is_closing = True
        self._await_nothing()
        self._set_timer(_LINGER_S, self.transport.abortConnection)
        self.outgoing.close()

    # Parts of it.

    def _await_nothing(self) -> None:
        self._stop_timer()
        self._lobby.leave(self)

    def _begin(self) -> None:
        watch_peer(self.transport, always_reads=False)
        self.outgoing = Outgoing(self.transport, self._host.guard.wrap(self.client.refill))
        self._is_open = True
        if self._secured is None:
            self.client.connected(Peer())
        else:
            self._set_timer(HELLO_TIMEOUT_S, self._miss_handshake, self._secured)
            self._enter_lobby()

    @property
    def _secured(self) -> Secured | None:
        """The transport as what it is where there is TLS."""
        return cast("Secured", self.transport) if self._host.credentials.are_on_tls else None

    def _meet(self) -> None:
        """Whoever it is can be talked to."""
        secured = self._secured
        assert secured is not None
        if self._is_closing:
            return
        name = secured.peer_name
        if name is None and self._host.credentials.are_named:
            self.client.talk.drop("its certificate names nobody", Departure.LOST)
        else:
            self.client.connected(Peer(secured.binding, None if name is None else clean_text(name)))

    def _miss_handshake(self, secured: Secured) -> None:
        why = f"no TLS within {HELLO_TIMEOUT_S:g} s"
        if secured.has_heard:
            self.client.talk.drop(why, Departure.LOST)
        else:
            # A client that speaks none waits for the first word.
            self._ask_for_tls(f"{why}, as of a client without --token-file and --tls-dir")

    def _ask_for_tls(self, why: str) -> None:
        secured = self._secured
        assert secured is not None
        secured.speak_plainly()
        if not self._is_closing:
            self.outgoing.send(Refusal(_SPEAK_TLS, tls=True).encode())
            self.client.talk.drop(why, Departure.LOST)

    def _enter_lobby(self) -> None:
        if self._is_in_lobby:
            return
        self._is_in_lobby = True
        turned_away = self._lobby.enter(self)
        if turned_away is not None:
            why = f"it has not said who it is, and {self._lobby.limit} others wait to"
            turned_away.client.talk.drop(why, Departure.LOST)

    def _hear(self, data: bytes) -> None:
        client = self.client
        if self._is_closing:
            return
        self._silent = False
        try:
            for message in self._stream.feed(data):
                client.hear(message)
                if self._is_closing:
                    return
        except WireError as error:
            client.drop(f"broke the protocol: {error}")

    def _lose(self, reason: Failure) -> None:
        self.outgoing.stopProducing()
        why = None if self._secured is None else self._secured.why_lost(reason)
        self.client.lost(silent=self._silent, why=why)

    def _set_timer(self, delay_s: float, call: Callable[..., object], *args: object) -> None:
        self._stop_timer()
        self._timer = self._host.guard.call_later(self._host.clock, delay_s, call, *args)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class ClientFactory(ServerFactory):
    """Makes a :class:`ClientProtocol` of every connection, as long as there are not too many."""

    noisy = False

    def __init__(
        self, host: Host, door: Door, lobby: Lobby[ClientProtocol], max_connections: int
    ) -> None:
        self._host = host
        self._door = door
        self._lobby = lobby
        self._max_connections = max_connections
        #: All that are open, in the order in which they came; a set's would be another each time.
        self.connections: dict[ClientProtocol, None] = {}
        # To those that were.
        self._bytes_sent = 0

    @property
    def bytes_sent(self) -> int:
        """By TCP, to whoever was or is connected."""
        return self._bytes_sent + sum([c.bytes_sent for c in self.connections])

    def buildProtocol(self, addr: IAddress | None) -> ClientProtocol | None:
        try:
            return self._build(getattr(addr, "host", "a connection"))
        except Exception:
            self._host.guard.failed(Failure())
            return None

    def _build(self, address: str) -> ClientProtocol | None:
        if not self._door.lets_in(address):
            self._host.crowd.closed(address)
            return None
        if len(self.connections) >= self._max_connections:
            # Who is turned away holds its descriptor until the reactor's next turn.
            if self._host.crowd.may_say(address):
                _log.info(
                    "{address} is no client: too many come at once",
                    event="too-many-connections",
                    address=address,
                )
            return None
        connection = ClientProtocol(self._host, self._door, self._lobby, address)
        self.connections[connection] = None
        connection.lost.addCallback(self._closed, connection)
        return connection

    def _closed(self, _: None, connection: ClientProtocol) -> None:
        del self.connections[connection]
        self._bytes_sent += connection.bytes_sent
