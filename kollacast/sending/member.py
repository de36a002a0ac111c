"""One client's place in the barrier: what it has been told, what it owes, what it has asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from kollacast.packets.buffer import PacketBuffer
from kollacast.sending.barrier import ClientGroup, Phase
from kollacast.sending.plan import Plan
from kollacast.sending.repairs import Repairs
from kollacast.sending.window import Window
from kollacast.transport.outgoing import Outgoing
from kollacast.transport.send_queue import SendQueue
from kollacast.wire.dialect import Dialect
from kollacast.wire.messages import BufferCtl, Fetch, Packet, Repaired, Sent, encode_sealed
from kollacast.wire.structures import WireError

#: Payload bytes of retransmissions made at a time.
_REPAIR_CHUNK = 128 * 1024


class Client(Protocol):
    """The client whose place it is."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def can_leave(self) -> bool:
        """Whether it can leave the barrier and fetch."""

    def sent_all(self) -> None:
        """It has been told that the empty buffer is sent."""

    def kept_all(self) -> None:
        """It has kept all that came by multicast."""

    def resent(self, packets: int) -> None:
        """So many packets have gone to it by TCP."""


class Stream(Protocol):
    """The stream of bytes that it has a part in."""

    @property
    def plan(self) -> Plan:
        """What is sent."""

    @property
    def window(self) -> Window:
        """The buffers in flight."""

    @property
    def repairs(self) -> Repairs:
        """What answers requests."""

    def repairing(self, size: int) -> None:
        """So many bytes of retransmissions are about to leave by TCP."""


@dataclass(slots=True)
class _Due:
    """An answer that the client owes, and since when."""

    ctl: BufferCtl
    since: float


class Member:
    """Passes on what a phase tells, and checks that each answer is one that is due."""

    def __init__(
        self,
        clock: IReactorTime,
        dialect: Dialect,
        outgoing: Outgoing,
        client: Client,
        *,
        decodes: bool,
    ) -> None:
        #: Whether the client can use coded repairs.
        self.decodes = decodes
        self._clock = clock
        self._dialect = dialect
        self._outgoing = outgoing
        self._client = client
        # Where it takes part, once the stream has begun and until it leaves.
        self._group: ClientGroup[Member] | None = None
        self._stream: Stream
        self._has_answered = False
        self._has_reported = False
        # The first buffer that it was told of.
        self._first: BufferCtl | None = None
        # Phases that the client has been told of and owes an answer to.
        self._announced: deque[_Due] = deque()
        self._ready: deque[BufferCtl] = deque()
        self._sent: deque[_Due] = deque()
        self._requested: deque[int] = deque()
        # Packets asked for and neither sent nor taken over by a coded repair.
        self._unanswered = 0
        # Whether the client has been told of coded repairs and has not asked since.
        self._asks_anew = False

    @property
    def name(self) -> str:
        """What people call the client."""
        return self._client.name

    @property
    def can_leave(self) -> bool:
        """Whether the client can leave the barrier and fetch."""
        return self._client.can_leave

    def enter(self, stream: Stream, group: ClientGroup[Member]) -> None:
        """Take part in ``stream``, as one of ``group``."""
        self._stream = stream
        self._group = group

    # From the group.

    def begin(self, phase: Phase, ctl: BufferCtl | None) -> None:
        """Tell the client of a phase; what it owes from now on is checked."""
        if ctl is None:
            if self._has_reported:
                self._answered(phase)
            return
        due = _Due(ctl, self._clock.seconds())
        if phase is Phase.ANNOUNCE:
            if self._first is None:
                self._first = ctl
            self._announced.append(due)
            self._outgoing.send(ctl.encode(self._dialect))
        elif not self.takes(ctl):
            self._answered(phase)
        else:
            self._sent.append(due)
            self._outgoing.send(Sent().encode(self._dialect))
            if ctl.is_end:
                self._client.sent_all()

    def takes(self, ctl: BufferCtl) -> bool:
        """Whether the client was told of this buffer: who came late was not told of the first."""
        return self._first is not None and self._first.buffer_id <= ctl.buffer_id

    def is_before(self, fetch: Fetch) -> bool:
        """Whether these packets had been announced before the client was in."""
        first = self._first
        return first is not None and fetch.first + fetch.count <= first.packet_id_base

    @property
    def is_all_sent(self) -> bool:
        """Whether the client has been told that the empty buffer is sent."""
        return bool(self._sent) and self._sent[-1].ctl.is_end

    # From the repairs.

    def repair(self, seqs: Sequence[int]) -> None:
        """Send the client these packets, which it asked for."""
        self._requested.extend(seqs)
        if not self._sent:
            self._close_requests()
        self._outgoing.pump()

    def repaired(self, buffer_id: int) -> None:
        """Tell the client that coded repairs of a buffer have been multicast."""
        if self._group is not None:
            self._unanswered = len(self._requested)
            self._asks_anew = True
            self._outgoing.send(Repaired(buffer_id).encode(self._dialect))

    # From the client.

    def ready(self) -> None:
        if not self._announced:
            raise WireError("READY for a buffer that was not announced")
        self._has_answered = True
        self._ready.append(self._announced.popleft().ctl)
        self._answered(Phase.ANNOUNCE)

    def done(self) -> None:
        if not self._sent or not self._ready:
            raise WireError("DONE for a buffer that was not sent")
        self._sent.popleft()
        ctl = self._ready.popleft()
        if not self._sent:
            self._close_requests()
        self._stream.repairs.done(self, ctl.buffer_id)
        if ctl.is_end:
            # At once: who has kept all need not wait for the others to bring it to disk.
            self._client.kept_all()
        self._answered(Phase.SENT)

    def request(self, seqs: tuple[int, ...]) -> None:
        if not self._sent or not self._ready:
            raise WireError("a request before SENT")
        if self._asks_anew:
            # What coded repairs left to TCP may still wait here, and is asked for again.
            self._asks_anew = False
            waiting = set(self._requested)
            seqs = tuple(seq for seq in seqs if seq not in waiting)
        most = self._stream.plan.max_request
        if self._unanswered + len(seqs) > most:
            raise WireError(f"requests for more than {most} packets at once")
        if not self._dialect.answers_all and not self._stream.window.holds_all(seqs):
            raise WireError("a request for a packet that is not held")
        self._unanswered += len(seqs)
        self._stream.repairs.requested(self, seqs)

    def reported(self) -> None:
        self._has_reported = True
        self._answered(Phase.PROVE)

    # From the server.

    @property
    def owes(self) -> str | None:
        """The answer that is due from the client, and for which the others wait, if one is."""
        if self._announced:
            return Phase.ANNOUNCE.answer
        if self._sent:
            return Phase.SENT.answer
        return None

    @property
    def answers_due(self) -> int:
        """How many answers the client owes."""
        return len(self._announced) + len(self._sent)

    @property
    def packets_owed(self) -> int:
        """How many packets the client has asked for and not got."""
        return self._unanswered

    @property
    def has_answered(self) -> bool:
        """Whether the client has ever said READY, as only clients do."""
        return self._has_answered

    @property
    def is_finishing(self) -> bool:
        """Whether the answer due is the client's last one, before which it syncs its file."""
        return not self._dialect.proves and bool(self._ready) and self._ready[0].is_end

    def owed_s(self) -> float:
        """Seconds for which the oldest answer has been due, and the others are held up for it."""
        since = [due[0].since for due in (self._announced, self._sent) if due]
        return self._clock.seconds() - min(since) if since else 0.0

    def ready_owed_s(self) -> float:
        """Seconds for which the oldest READY has been due."""
        return self._clock.seconds() - self._announced[0].since if self._announced else 0.0

    def leave(self) -> None:
        """Nothing waits for this client any more."""
        group, self._group = self._group, None
        if group is not None:
            self._stream.repairs.left(self)
            group.leave(self)
        self._requested.clear()

    def _answered(self, phase: Phase) -> None:
        if self._group is not None:
            self._group.answered(self, phase)

    # Retransmissions.

    def refill(self, queue: SendQueue) -> None:
        """Append the next of the requested packets, a bounded piece at a time."""
        if not self._requested:
            return
        capacity = self._stream.plan.capacity
        seqs = list(islice(self._requested, max(_REPAIR_CHUNK // capacity, 1)))
        for _ in seqs:
            self._requested.popleft()
        self._unanswered -= len(seqs)
        self._stream.repairing(len(seqs) * capacity)
        buffer: PacketBuffer | None = None
        slots: list[int] = []
        for seq in seqs:
            slot = None if buffer is None else buffer.slot_of(seq)
            if slot is None:
                self._append_packets(queue, buffer, slots)
                slots = []
                buffer = self._stream.window.held(seq)
                slot = None if buffer is None else buffer.slot_of(seq)
            if slot is None:
                if self._dialect.answers_all:
                    queue.append(Packet(seq, 0, b"").encode(self._dialect))
                continue
            slots.append(slot)
        self._append_packets(queue, buffer, slots)

    def _close_requests(self) -> None:
        """The client is done with all that it may have asked for.

        Late datagrams have brought it.  Where all is answered, answers
        still have to come, and before the next announcement.
        """
        if self._dialect.answers_all:
            while self._requested:
                self.refill(self._outgoing.queue)
        self._requested.clear()
        self._unanswered = 0

    def _append_packets(
        self, queue: SendQueue, buffer: PacketBuffer | None, slots: list[int]
    ) -> None:
        if buffer is not None and slots:
            payloads = [buffer.slots(slot, 1)[0] for slot in slots]
            queue.append(encode_sealed(self._dialect, buffer.headers, slots, payloads))
            self._client.resent(len(slots))
