"""One client's TCP connection, as the server sees it.

The protocol knows who the client is and how it ends.  What is said in between
is for its :class:`Member` as long as it is in the barrier, and for its
:class:`Puller` where it fetches by itself.  A client that came late has both.
"""

from __future__ import annotations

import secrets
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.events.guard import Guard
from kollacast.sending.barrier import Phase
from kollacast.sending.history import History
from kollacast.sending.member import Member
from kollacast.sending.puller import Puller
from kollacast.sending.repairs import Repairs
from kollacast.server.client_record import ClientRecord
from kollacast.server.lobby import Lobby
from kollacast.server.session import Session
from kollacast.transport.keepalive import watch_peer
from kollacast.transport.outgoing import Outgoing
from kollacast.transport.send_queue import SendQueue
from kollacast.wire.greeting import Hello, Refusal
from kollacast.wire.messages import (
    Detach,
    Digest,
    Done,
    Fetch,
    Message,
    Ready,
    Report,
    Request,
)
from kollacast.wire.parser import ClientStream
from kollacast.wire.structures import WireError

_log = Logger()

#: Seconds in which a connection must have introduced itself.
HELLO_TIMEOUT_S = 5.0
#: Seconds in which a client must have read the last words.
_LINGER_S = 3.0
#: What a C client makes of a greeting, of which it reads the first 16 bytes.
_LIKE_JASMINE = (
    "it closed the connection at the greeting, without a word, as the C client jasminec does,"
    " which needs a server with --dialect jasmine"
)


class Host(Interface):
    """What a client's protocol needs of the server around it."""

    clock: IReactorTime
    session: Session
    repairs: Repairs
    history: History
    lobby: Lobby[ClientProtocol]
    guard: Guard

    def refusal(self, hello: Hello | None) -> str | None:
        """Why no client, or not the one of ``hello``, may come in now; or None."""

    def may_be_back(self, client: ClientProtocol) -> bool:
        """Whether a client that is in may be the same one, with a connection that is broken."""

    def allows(self, address: str) -> bool:
        """Whether a host with this address may join."""

    def greeting(self, nonce: str) -> bytes:
        """What a connection is told first."""

    def joined(self, client: ClientProtocol) -> str | None:
        """A client is in; returns why it does not get all in step with the others, or None.

        Who is in step from here on, with or without such a reason, has a member now.
        """

    def repairing(self, size: int) -> None:
        """So many bytes of retransmissions are about to leave by TCP."""

    def digest(self) -> Deferred[bytes]:
        """Fires with the image's digest once all of it is read."""

    def unreached(self, client: ClientProtocol) -> str | None:
        """A client hears nothing: why it goes on by itself, or None where it cannot."""

    def verified(self, client: ClientProtocol) -> None:
        """A client has the whole image."""

    def left(self, client: ClientProtocol) -> None:
        """A client that was in is out; its record says why."""


class ClientProtocol(Protocol):
    """The conversation with one client."""

    transport: Any

    def __init__(self, host: Host, address: str) -> None:
        self.record = ClientRecord(name=address, address=address)
        #: What the client has said of itself; None where the dialect has no word for it.
        self.hello: Hello | None = None
        #: The client's place in the barrier, if it has one.
        self.member: Member | None = None
        #: What serves a client that fetches.
        self.puller: Puller | None = None
        #: Whether the connection broke, and the client may come back on another.
        self.may_return = False
        #: Whether the client has said that it gives up.
        self.has_given_up = False
        #: Fires when the connection is closed.
        self.lost: Deferred[None] = Deferred()
        self._host = host
        self._session = host.session
        self._dialect = host.session.dialect
        self._stream = ClientStream(self._dialect, host.session.max_request)
        self._nonce = secrets.token_hex(16)
        self._is_in = False
        self._closed = False
        self._has_heard = False
        self._hello_timer: IDelayedCall | None = None
        self._linger_timer: IDelayedCall | None = None
        # Whether the client has been told the digest, and whether it has answered DONE for all.
        self._digest_told = False
        self._is_through = False
        # Whether answers to what was said before DETACH may come.
        self._is_detached = False
        self._heard_at = 0.0
        self._joined_at = 0.0

    @property
    def address(self) -> str:
        """The client's IP address."""
        return self.record.address

    # The connection.

    def connectionMade(self) -> None:
        self._host.guard.wrap(self._begin)()

    def _begin(self) -> None:
        watch_peer(self.transport, always_reads=False)
        self._outgoing = Outgoing(self.transport, self._host.guard.wrap(self._refill))
        reason = self._host.refusal(None)
        if not self._host.allows(self.record.address):
            reason = "this host is not among those that may join"
            _log.warn("{address} is refused: it may not join", address=self.record.address)
        if reason is not None:
            if self._dialect.introduces:
                self._outgoing.send(Refusal(reason).encode())
            self._close()
            return
        self._outgoing.send(self._host.greeting(self._nonce))
        if self._dialect.introduces:
            self._hello_timer = self._host.guard.call_later(
                self._host.clock, HELLO_TIMEOUT_S, self._no_hello
            )
            crowded_out = self._host.lobby.enter(self)
            if crowded_out is not None:
                crowded_out.crowd_out()
        else:
            self._join()

    def dataReceived(self, data: bytes) -> None:
        if not self._closed:
            self._host.guard.wrap(self._hear)(data)

    def _hear(self, data: bytes) -> None:
        self._has_heard = True
        try:
            for message in self._stream.feed(data):
                self._receive(message)
                if self._closed:
                    return
        except WireError as error:
            self.drop(f"broke the protocol: {error}")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._host.guard.wrap(self._lose)()
        self._cancel_timers()
        self.lost.callback(None)

    def _lose(self) -> None:
        self._outgoing.stopProducing()
        if self.record.verified:
            self._closed = True
            self._leave()
        else:
            self.may_return = self.can_fetch and not self._closed
            is_like_jasmine = self._hello_timer is not None and not self._has_heard
            self.drop(_LIKE_JASMINE if is_like_jasmine else "the connection was lost")
        if self.puller is not None:
            self.puller.stop()

    # From the server.

    @property
    def can_fetch(self) -> bool:
        """Whether the client can go on outside the barrier."""
        return self.hello is not None and self.hello.fetch

    @property
    def is_stranger(self) -> bool:
        """Whether it has said nothing yet that only a client says: hello, or else READY."""
        return self.hello is None and (self.member is None or not self.member.has_answered)

    @property
    def packets(self) -> int | None:
        """How many packets the client can hold, None where it does not say."""
        return None if self.hello is None else self.hello.packets

    @property
    def owes(self) -> str | None:
        """What is due from the client, if anything is."""
        if self.member is not None and self.member.owes is not None:
            return self.member.owes
        if self._is_report_due:
            return Phase.PROVE.answer
        if self.member is not None or self.record.verified:
            # What it fetches beside holds nobody up, until its report is due.
            return None
        if self.puller is None or self.puller.waits_for_image:
            return None
        return "FETCH" if self.puller.idle else "room for more"

    @property
    def is_finishing(self) -> bool:
        """Whether the answer due is the client's last one, before which it syncs its file."""
        return self._is_report_due or (self.member is not None and self.member.is_finishing)

    def silent_s(self) -> float:
        """Seconds for which an answer has been due and nothing has moved."""
        if not self.owes:
            return 0.0
        silent_s = self._host.clock.seconds() - self._heard_at
        if self.member is None or self.member.owes is None:
            return silent_s
        return min(self.member.owed_s(), silent_s)

    def detach(self, reason: str) -> None:
        """Take the client out of the barrier: it fetches the rest by itself."""
        member, self.member = self.member, None
        assert member is not None
        _log.warn(
            "client {name} ({address}) goes on by itself: {reason}",
            name=self.record.name,
            address=self.record.address,
            reason=reason,
        )
        self._is_detached = True
        self._serve(reason)
        self._outgoing.send(Detach().encode(self._dialect))
        member.leave()

    def drop(self, reason: str) -> None:
        """The client is out, and ``reason`` says why; once it has left, a no-op."""
        if self._closed:
            return
        if not self._is_in:
            _log.info(
                "{address} is no client: {reason}", address=self.record.address, reason=reason
            )
            self._tell_and_close(reason)
            return
        if self.is_stranger:
            _log.warn(
                "{address} does not count as a client: {reason}",
                address=self.record.address,
                reason=reason,
            )
            self._tell_and_close(reason)
            self._leave()
            return
        self.record.reason = reason
        _log.warn(
            "client {name} ({address}) is out: {reason}",
            name=self.record.name,
            address=self.record.address,
            reason=reason,
        )
        self._tell_and_close(reason)
        self._leave()

    def crowd_out(self) -> None:
        """Close a connection that has said nothing yet; who means well may come again."""
        _log.info(
            "{address} is no client: it has not said who it is, and {count} others wait to",
            address=self.record.address,
            count=self._host.lobby.limit,
        )
        self._close()

    def end(self, reason: str | None, *, later: bool = False) -> Deferred[None]:
        """The session is over, for ``reason`` unless it has ended well.

        With ``later``, the client is to look for the next server.  Fires once the connection
        is closed.
        """
        if not self._closed:
            if reason is None or self.record.verified:
                self._close()
            else:
                self.record.reason = reason
                self._tell_and_close(reason, later=later)
        return self.lost

    # From the puller.

    @property
    def is_in_step(self) -> bool:
        """Whether the client is in the barrier, and hears of the image's end there."""
        return self.member is not None

    def send(self, message: bytes) -> None:
        """Send the client a message."""
        self._moved()
        self._outgoing.send(message)

    def served(self, packets: int) -> None:
        """So many packets are about to be sent."""
        self.record.packets_fetched += packets

    def told_end(self) -> None:
        """The client has fetched all, and knows it: its report is due."""
        self._is_through = True
        self._tell_digest()

    # Messages.

    def _receive(self, message: Message) -> None:
        member = self.member
        if self._is_detached and isinstance(message, (Ready, Request, Done, Detach)):
            # Said before it has read DETACH; or whenever, for it shows nothing of how it goes on.
            return
        self._moved()
        if isinstance(message, Hello):
            self._introduced(message)
        elif isinstance(message, Report):
            self._reported(message)
        elif isinstance(message, Fetch) and self.puller is not None:
            if member is not None and not member.is_before(message):
                raise WireError("a fetch of what comes by multicast")
            self.puller.fetch(message)
            self._outgoing.pump()
        elif member is not None:
            self._of_member(member, message)
        else:
            raise WireError("a message that only a client in the barrier may send")

    def _of_member(self, member: Member, message: Message) -> None:
        if isinstance(message, Ready):
            member.ready()
        elif isinstance(message, Request):
            member.request(message.seqs)
        elif isinstance(message, Done):
            member.done()
        elif isinstance(message, Detach):
            reason = self._host.unreached(self)
            if reason is not None:
                self.detach(reason)
        else:
            raise WireError("a fetch by a client in the barrier")

    def _introduced(self, hello: Hello) -> None:
        self._cancel_timers()
        self._host.lobby.leave(self)
        self.hello = hello
        self.record.name = hello.name or self.record.address
        answer = self._session.authenticate(self._nonce, hello)
        if answer is None:
            _log.warn("{address} is refused: it has not the secret", address=self.record.address)
            self._tell_and_close("it does not know the shared secret", refused=True)
            return
        self._outgoing.send(answer)
        reason = self._host.refusal(hello)
        if reason is not None:
            self._tell_and_close(reason, refused=True, later=self._host.may_be_back(self))
            return
        self._join()

    def _join(self) -> None:
        self._joined_at = self._host.clock.seconds()
        self._moved()
        self._is_in = True
        apart = self._host.joined(self)
        if apart is None:
            return
        self._serve(apart)
        hello = self.hello
        if self.member is None and hello is not None and (hello.late_join or not hello.pull):
            # Its hello has crossed the start, or the last announcement.
            self._is_detached = True
            self._outgoing.send(Detach().encode(self._dialect))

    def new_member(self, host: Host) -> Member:
        """Make this client one of those that receive in step."""
        self.member = Member(
            host,
            self._outgoing,
            self.hello is not None and self.hello.coding,
            sent_all=self._tell_digest,
            resent=self._resent,
            ended=self._ended,
        )
        return self.member

    def _serve(self, reason: str) -> None:
        self.record.fetching = reason
        if self.puller is None:
            self.puller = Puller(self._session, self._host.history, self, self._host.guard)

    def _reported(self, report: Report) -> None:
        if not report.says("ok"):
            self.has_given_up = True
            self.drop(report.reason)
            return
        # Of who was taken out of the barrier with the digest in hand, the last DONE is ignored.
        is_due = self._is_report_due or (self._digest_told and self._is_detached)
        if not is_due:
            raise WireError("a report that is not due")
        self.record.packets_multicast = report.count("packets_multicast")
        # The client alone knows how many losses coded repairs have mended.
        self.record.packets_repaired = (
            report.count("packets_repaired") or self.record.packets_repaired
        )
        self._verify()
        if self.member is not None:
            self.member.reported()
        # All is said, and the client waits to see that it was heard.
        self._close()

    @property
    def _is_report_due(self) -> bool:
        return self._digest_told and self._is_through and not self.record.verified

    def _tell_digest(self) -> None:
        """Tell the client the digest, as soon as there is one and it knows the image's end.

        In step with the others that is before it has all, so that it need not ask for more.
        """
        if self._dialect.proves and not self._digest_told:
            self._host.digest().addCallback(self._send_digest).addErrback(self._host.guard.failed)

    def _send_digest(self, digest: bytes) -> None:
        # Who has left the barrier since is told when it has fetched the rest.
        knows_end = self._is_through or (self.member is not None and self.member.is_all_sent)
        if knows_end and not self._digest_told and not self._closed:
            self._digest_told = True
            self.send(Digest(digest).encode(self._dialect))

    def _ended(self) -> None:
        """The client has kept all that came by multicast."""
        if self._dialect.proves:
            self._is_through = True
        else:
            self._verify()

    def _verify(self) -> None:
        self.record.verified = True
        self.record.reason = None
        self.record.seconds = round(self._host.clock.seconds() - self._joined_at, 3)
        self._host.verified(self)

    # What is sent.

    def _refill(self, queue: SendQueue) -> None:
        if self.member is not None:
            self.member.refill(queue)
        if self.puller is not None:
            self.puller.refill(queue)

    def _resent(self, packets: int) -> None:
        self._moved()
        self.record.packets_repaired += packets

    def _moved(self) -> None:
        self._heard_at = self._host.clock.seconds()

    # The end.

    def _leave(self) -> None:
        if not self._is_in:
            return
        self._is_in = False
        if self.puller is not None:
            self.puller.stop()
        # In this order: a barrier that falls for want of clients must not go on to the end.
        self._host.left(self)
        member, self.member = self.member, None
        if member is not None:
            member.leave()

    def _tell_and_close(self, reason: str, *, refused: bool = False, later: bool = False) -> None:
        if self._dialect.proves:
            report: dict[str, Any] = {"ok": False, "reason": reason}
            if refused:
                report["refused"] = True
            if later:
                report["later"] = True
            self._outgoing.send(Report(report).encode(self._dialect))
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._cancel_timers()
            self._host.lobby.leave(self)
            self._linger_timer = self._host.guard.call_later(
                self._host.clock, _LINGER_S, self._abort
            )
            self._outgoing.close()

    def _abort(self) -> None:
        self._linger_timer = None
        self.transport.abortConnection()

    def _no_hello(self) -> None:
        """Without a word, so that a client which the network or its disk has held up comes back."""
        self._hello_timer = None
        _log.info(
            "{address} is no client: no valid hello within {seconds:g} s",
            address=self.record.address,
            seconds=HELLO_TIMEOUT_S,
        )
        self._close()

    def _cancel_timers(self) -> None:
        for timer in (self._hello_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._hello_timer = self._linger_timer = None


class ClientFactory(ServerFactory):
    """Makes a :class:`ClientProtocol` of every connection, as long as there are not too many."""

    noisy = False

    def __init__(self, host: Host, max_connections: int) -> None:
        self._host = host
        self._max_connections = max_connections
        #: All that are open, in the order in which they came; a set's would be another each time.
        self.connections: dict[ClientProtocol, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> ClientProtocol | None:
        try:
            return self._build(addr)
        except Exception:
            self._host.guard.failed(Failure())
            return None

    def _build(self, addr: IAddress | None) -> ClientProtocol | None:
        address = getattr(addr, "host", "a connection")
        if len(self.connections) >= self._max_connections:
            # Who is shown the door holds its descriptor until the reactor's next turn.
            _log.info("{address} is no client: too many come at once", address=address)
            return None
        client = ClientProtocol(self._host, address)
        self.connections[client] = None
        client.lost.addCallback(lambda _: self.connections.pop(client))
        return client
