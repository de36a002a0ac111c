"""One client's TCP connection, as the server sees it.

The protocol speaks for its client towards the group: it passes on what a
phase tells, checks that each answer is one that is due, and keeps the queues
of what has been asked for and what is to be sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.core.buffer import PacketBuffer
from kollacast.server.groups import ClientGroup, Phase
from kollacast.server.repairs import Repairs
from kollacast.server.session import Session
from kollacast.transport.keepalive import watch_peer
from kollacast.transport.outgoing import Outgoing
from kollacast.transport.send_queue import SendQueue
from kollacast.wire.greeting import Hello, Refusal, clean_text, encode_json
from kollacast.wire.parser import ClientStream, Done, Message, Ready, Report, Request
from kollacast.wire.structures import SEQ_LIMIT, BufferCtl, Tag, WireError

_log = Logger()

#: Seconds in which a connection must have introduced itself.
HELLO_TIMEOUT_S = 5.0
#: Seconds in which a client must have read the last words.
_LINGER_S = 3.0
#: Payload bytes of retransmissions made at a time.
_REPAIR_CHUNK = 128 * 1024


@dataclass(slots=True)
class ClientRecord:
    """What the server's report says of one client."""

    name: str
    address: str
    verified: bool = False
    reason: str | None = None
    packets_multicast: int | None = None
    packets_repaired: int = 0
    seconds: float | None = None


class Host(Interface):
    """What a client's protocol needs of the server around it."""

    clock: IReactorTime
    session: Session
    repairs: Repairs

    def refusal(self, hello: Hello | None) -> str | None:
        """Why no client, or not the one of ``hello``, may come in now; or None."""

    def joined(self, client: ClientProtocol) -> ClientGroup:
        """A client is in."""

    def repairing(self, size: int) -> None:
        """So many bytes of retransmissions are about to leave by TCP."""

    def left(self, client: ClientProtocol) -> None:
        """A client that was in is out; its record says why."""


class ClientProtocol(Protocol):
    """The conversation with one client, and its message queues."""

    transport: Any

    def __init__(self, host: Host, address: str) -> None:
        self.record = ClientRecord(name=address, address=address)
        self._host = host
        self._session = host.session
        self._dialect = host.session.dialect
        self._stream = ClientStream(self._dialect, host.session.max_request)
        self._group: ClientGroup | None = None
        self._closed = False
        self._hello_timer: IDelayedCall | None = None
        self._linger_timer: IDelayedCall | None = None
        #: Fires when the connection is closed.
        self.lost: Deferred[None] = Deferred()
        #: How many packets the client can hold, None where it does not say.
        self.packets: int | None = None
        #: Whether the client can use coded repairs.
        self.decodes = False
        # Phases that the client has been told of and owes an answer to.
        self._announced: deque[BufferCtl] = deque()
        self._ready: deque[BufferCtl] = deque()
        self._sent = 0
        self._report_due = False
        self._requested: deque[int] = deque()
        # Packets asked for and neither sent nor taken over by a coded repair.
        self._unanswered = 0
        # Whether the client has been told of coded repairs and has not asked since.
        self._asks_anew = False
        self._heard_at = 0.0
        self._joined_at = 0.0

    # The connection.

    def connectionMade(self) -> None:
        watch_peer(self.transport, always_reads=False)
        self._outgoing = Outgoing(self.transport, self._refill)
        reason = self._host.refusal(None)
        if reason is not None:
            if self._dialect.greets:
                self._outgoing.send(Refusal(reason).encode())
            self._close()
            return
        self._outgoing.send(self._session.greeting.encode())
        if self._dialect.greets:
            self._hello_timer = self._host.clock.callLater(HELLO_TIMEOUT_S, self._no_hello)
        else:
            self._join()

    def dataReceived(self, data: bytes) -> None:
        if self._closed:
            return
        try:
            for message in self._stream.feed(data):
                self._receive(message)
                if self._closed:
                    return
        except WireError as error:
            self.drop(f"broke the protocol: {error}")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._outgoing.stopProducing()
        if self.record.verified:
            self._closed = True
            self._leave()
        else:
            self.drop("the connection was lost")
        self._cancel_timers()
        self.lost.callback(None)

    # From the group.

    def begin(self, phase: Phase, value: Any) -> None:
        """Tell the client of a phase; what it owes from now on is checked."""
        if not self.owes:
            self._heard_at = self._host.clock.seconds()
        if phase is Phase.ANNOUNCE:
            self._announced.append(value)
            self._outgoing.send(self._dialect.buffer(value))
        elif phase is Phase.SENT:
            self._sent += 1
            self._outgoing.send(bytes((Tag.SERVER_SENT,)))
        else:
            self._report_due = True
            self._outgoing.send(bytes((Tag.DIGEST,)) + value)

    def repair(self, seqs: Sequence[int]) -> None:
        """Send the client these packets, which it asked for."""
        self._requested.extend(seqs)
        if not self._sent:
            self._close_requests()
        self._outgoing.pump()

    def repaired(self, buffer_id: int) -> None:
        """Tell the client that coded repairs of a buffer have been multicast."""
        if not self._closed:
            self._unanswered = len(self._requested)
            self._asks_anew = True
            self._outgoing.send(self._dialect.repaired(buffer_id))

    # From the server.

    @property
    def owes(self) -> str | None:
        """The answer that is due from the client, if one is."""
        if self._announced:
            return Phase.ANNOUNCE.answer
        if self._sent:
            return Phase.SENT.answer
        return Phase.PROVE.answer if self._report_due else None

    @property
    def is_finishing(self) -> bool:
        """Whether the answer due is the client's last one, before which it syncs its file."""
        last_done = not self._dialect.proves and bool(self._ready) and self._ready[0].is_end
        return self._report_due or last_done

    def silent_s(self) -> float:
        """Seconds for which an answer has been due and nothing has moved."""
        return self._host.clock.seconds() - self._heard_at if self.owes else 0.0

    def drop(self, reason: str) -> None:
        """The client is out, and ``reason`` says why; once it has left, a no-op."""
        if self._closed:
            return
        if self._group is None:
            _log.info(
                "{address} is no client: {reason}", address=self.record.address, reason=reason
            )
            self._tell_and_close(reason)
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

    def end(self, reason: str | None) -> Deferred[None]:
        """The session is over, for ``reason`` unless it has ended well.

        Fires once the connection is closed.
        """
        if not self._closed:
            if reason is None or self.record.verified:
                self._close()
            else:
                self.record.reason = reason
                self._tell_and_close(reason)
        return self.lost

    # Messages.

    def _receive(self, message: Message) -> None:
        self._heard_at = self._host.clock.seconds()
        if isinstance(message, Hello):
            self._introduced(message)
        elif isinstance(message, Ready):
            if not self._announced:
                raise WireError("READY for a buffer that was not announced")
            self._ready.append(self._announced.popleft())
            self._answered(Phase.ANNOUNCE)
        elif isinstance(message, Request):
            self._request(message.seqs)
        elif isinstance(message, Done):
            if not self._sent or not self._ready:
                raise WireError("DONE for a buffer that was not sent")
            self._sent -= 1
            ctl = self._ready.popleft()
            if not self._sent:
                self._close_requests()
            self._host.repairs.done(self, ctl.buffer_id)
            if ctl.is_end and not self._dialect.proves:
                self._verify()
            self._answered(Phase.SENT)
        elif isinstance(message, Report):
            self._reported(message.fields)

    def _introduced(self, hello: Hello) -> None:
        self._cancel_timers()
        self.packets = hello.packets
        self.decodes = hello.coding
        self.record.name = hello.name or self.record.address
        reason = self._host.refusal(hello)
        if reason is not None:
            self._tell_and_close(reason)
            return
        self._join()

    def _join(self) -> None:
        self._joined_at = self._heard_at = self._host.clock.seconds()
        self._group = self._host.joined(self)

    def _request(self, seqs: tuple[int, ...]) -> None:
        if not self._sent or not self._ready:
            raise WireError("a request before SENT")
        if self._asks_anew:
            # What coded repairs left to TCP may still wait here, and is asked for again.
            self._asks_anew = False
            waiting = set(self._requested)
            seqs = tuple(seq for seq in seqs if seq not in waiting)
        if self._unanswered + len(seqs) > self._session.max_request:
            raise WireError(f"requests for more than {self._session.max_request} packets at once")
        if not self._dialect.answers_unheld and not self._session.holds_all(seqs):
            raise WireError("a request for a packet that is not held")
        self._unanswered += len(seqs)
        self._host.repairs.requested(self, seqs)

    def _reported(self, fields: dict[str, Any]) -> None:
        if fields.get("ok") is not True:
            reason = fields.get("reason")
            self.drop(clean_text(reason) if isinstance(reason, str) else "it gave no reason")
            return
        if not self._report_due:
            raise WireError("a report before the digest")
        self._report_due = False
        self.record.packets_multicast = _count(fields, "packets_multicast")
        # The client alone knows how many losses coded repairs have mended.
        self.record.packets_repaired = (
            _count(fields, "packets_repaired") or self.record.packets_repaired
        )
        self._verify()
        self._answered(Phase.PROVE)

    def _verify(self) -> None:
        self.record.verified = True
        self.record.seconds = round(self._host.clock.seconds() - self._joined_at, 3)

    def _answered(self, phase: Phase) -> None:
        if self._group is not None:
            self._group.answered(self, phase)

    # Retransmissions.

    def _close_requests(self) -> None:
        """The client is done with all that it may have asked for.

        Late datagrams have brought it.  Where answers have no tags, they
        still have to come, and before the next announcement.
        """
        if not self._dialect.tagged:
            while self._requested:
                self._refill(self._outgoing.queue)
        self._requested.clear()
        self._unanswered = 0

    def _refill(self, queue: SendQueue) -> None:
        """Append the next of the requested packets, a bounded piece at a time."""
        budget = max(_REPAIR_CHUNK // self._session.capacity, 1)
        seqs = list(islice(self._requested, budget))
        if not seqs:
            return
        self._heard_at = self._host.clock.seconds()
        for _ in seqs:
            self._requested.popleft()
        self._unanswered -= len(seqs)
        self._host.repairing(len(seqs) * self._session.capacity)
        buffer: PacketBuffer | None = None
        slots: list[int] = []
        for seq in seqs:
            slot = None if buffer is None else buffer.slot_of(seq)
            if slot is None:
                self._append_packets(queue, buffer, slots)
                slots = []
                buffer = self._session.held(seq)
                slot = None if buffer is None else buffer.slot_of(seq)
            if slot is None:
                if self._dialect.answers_unheld:
                    queue.append(self._dialect.unheld_packet(seq))
                continue
            slots.append(slot)
        self._append_packets(queue, buffer, slots)

    def _append_packets(
        self, queue: SendQueue, buffer: PacketBuffer | None, slots: list[int]
    ) -> None:
        if buffer is not None and slots:
            self.record.packets_repaired += len(slots)
            payloads = [buffer.slots(slot, 1)[0] for slot in slots]
            queue.append(self._dialect.packets(buffer.headers, slots, payloads))

    # The end.

    def _leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            # In this order: a barrier that falls for want of clients must not go on to the end.
            self._host.left(self)
            group.leave(self)

    def _tell_and_close(self, reason: str) -> None:
        if self._dialect.proves:
            report = encode_json({"ok": False, "reason": reason})
            self._outgoing.send(bytes((Tag.REPORT,)) + report)
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._cancel_timers()
            self._linger_timer = self._host.clock.callLater(_LINGER_S, self._abort)
            self._outgoing.close()

    def _abort(self) -> None:
        self._linger_timer = None
        self.transport.abortConnection()

    def _no_hello(self) -> None:
        self._hello_timer = None
        self.drop(f"no valid hello within {HELLO_TIMEOUT_S:g} s")

    def _cancel_timers(self) -> None:
        for timer in (self._hello_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._hello_timer = self._linger_timer = None


def _count(fields: dict[str, Any], key: str) -> int | None:
    """A number of packets in a client's report, None where there is none."""
    value = fields.get(key)
    return value if isinstance(value, int) and 0 <= value <= SEQ_LIMIT else None


class ClientFactory(ServerFactory):
    """Makes a :class:`ClientProtocol` of every connection."""

    noisy = False

    def __init__(self, host: Host) -> None:
        self._host = host
        self.connections: set[ClientProtocol] = set()

    def buildProtocol(self, addr: IAddress | None) -> ClientProtocol:
        client = ClientProtocol(self._host, getattr(addr, "host", "a connection"))
        self.connections.add(client)
        client.lost.addCallback(lambda _: self.connections.discard(client))
        return client
