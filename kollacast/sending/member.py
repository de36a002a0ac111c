"""One client's place in the barrier: what it has been told, what it owes, what it has asked for."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from itertools import groupby, islice
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from kollacast.packets.losses import NOTHING_LOST, Lost
from kollacast.sending.barrier import ClientGroup, Phase
from kollacast.sending.control import ControlStream
from kollacast.sending.owed import Owed
from kollacast.sending.reach import Listener
from kollacast.sending.repairs import Repairs
from kollacast.transport.outgoing import Outgoing
from kollacast.transport.send_queue import SendQueue
from kollacast.wire.dialect import Dialect
from kollacast.wire.messages import BufferCtl, Credit, Fetch, Packet, Sent, encode_sealed
from kollacast.wire.structures import WireError

#: Payload bytes of retransmissions made at a time.
_REPAIR_CHUNK = 128 * 1024


class MemberClient(Listener, Protocol):
    """The client whose place it is."""

    @property
    def address(self) -> str: ...  # that it has come from
    @property
    def may_go(self) -> bool: ...  # whether the others may go on without it, which may be its end
    def sent_all(self) -> None: ...  # it has been told that the empty buffer is sent
    def kept_all(self) -> None: ...  # it has kept all that came by multicast
    def resent(self, packets: int) -> None: ...  # so many have gone to it by TCP


class Member:
    """Passes on what a phase tells, and checks that each answer is one that is due."""

    def __init__(
        self,
        clock: IReactorTime,
        dialect: Dialect,
        outgoing: Outgoing,
        client: MemberClient,
        *,
        decodes: bool,
        room: int = 0,
    ) -> None:
        self.client = client
        #: Whether the client can use coded repairs.
        self.decodes = decodes
        #: Whether the client has ever said READY, as only clients do.
        self.has_answered = False
        #: How many answers that were due the client has given.
        self.answers = 0
        #: Packets asked for and neither sent nor taken over by a coded repair.
        self.packets_owed = 0
        #: Up to which packet of the stream it has all that it was told of.
        self.packets_done = 0
        #: Seconds from the word that a buffer is sent until it has all of it, of all buffers.
        self.answering_s = 0.0
        # For so many buffers it has room before it has said anything.
        self._room_ahead = room
        self._clock = clock
        self._dialect = dialect
        self._outgoing = outgoing
        # Where it takes part, once the stream has begun and until it leaves.
        self._group: ClientGroup[Member] | None = None
        self._repairs: Repairs
        self._control: ControlStream | None = None
        self._has_reported = False
        # The first buffer that it was told of.
        self._first: BufferCtl | None = None
        # Up to which buffers it has said to have all and to have room.
        self._credit = Credit(0, 0)
        # Phases that the client has been told of and owes an answer to, and since when.
        self._announced: deque[tuple[BufferCtl, float]] = deque()
        self._ready: deque[BufferCtl] = deque()
        self._sent: deque[tuple[BufferCtl, float]] = deque()
        self._requested: deque[int] = deque()
        # What it knows of the control stream, where it has asked for more.
        self._asked: int | None = None
        # The buffers of which it has asked for the pieces' digests.
        self._wanted: dict[int, None] = {}
        # The packets owed. Some of them are asked for again by who is told to ask anew, which its
        # own requests may cross on the way: once for each time that all were told.
        self._owed = Owed()
        self._rounds_known = 0

    def enter(
        self,
        group: ClientGroup[Member],
        repairs: Repairs,
        control: ControlStream | None,
        known: int,
    ) -> None:
        """Take part in a stream, as one of ``group``.

        Its client is told by TCP where ``control`` goes on behind the number ``known``, so that it
        knows from which notice on it has to know all.
        """
        self._group = group
        self._repairs = repairs
        self._rounds_known = repairs.rounds_told
        self._control = control
        if control is not None:
            control.ask(self, known)

    # From the group.

    def begin(self, phase: Phase, ctl: BufferCtl | None) -> None:
        """Tell the client of a phase; what it owes from now on is checked."""
        if ctl is None:
            if self._has_reported:
                self._answered(phase)
            return
        due = ctl, self._clock.seconds()
        if phase is Phase.ANNOUNCE:
            if self._first is None:
                self._first = ctl
                self._credit = Credit(ctl.buffer_id - 1, ctl.buffer_id - 1 + self._room_ahead)
            self._announced.append(due)
            if self._control is None:
                self.tell(ctl.encode(self._dialect))
            elif ctl.buffer_id <= self._room:
                self.ready()
        elif not self.takes(ctl):
            self._answered(phase)
        else:
            self._sent.append(due)
            if self._control is None:
                self.tell(Sent().encode(self._dialect))
            if ctl.is_end:
                self.client.sent_all()

    def takes(self, ctl: BufferCtl) -> bool:
        """Whether the client was told of this buffer: who came late was not told of the first."""
        return self._first is not None and self._first.buffer_id <= ctl.buffer_id

    def is_before(self, fetch: Fetch) -> bool:
        """Whether these packets had been announced before the client was in."""
        first = self._first
        return first is not None and fetch.first + fetch.count <= first.packet_id_base

    @property
    def first_packet(self) -> int:
        """The first packet of which it was told; 0 before it was told of any."""
        return 0 if self._first is None else self._first.packet_id_base

    # From the control stream.

    def tell(self, message: bytes) -> None:
        """Send the client a message."""
        self._outgoing.send(message)

    # From the repairs.

    def repair(self, seqs: Sequence[int]) -> None:
        """Send the client these packets, which it asked for."""
        self._requested.extend(seqs)
        if not self._sent:
            self._close_requests()
        self._outgoing.pump()

    def repaired(self) -> None:
        """What the client has asked for has been multicast: it asks anew for what it lacks."""
        self.packets_owed = len(self._requested)
        self._owed.clear()
        self._owed.update(self._requested)

    # From the client.

    def ready(self) -> None:
        """It has answered an announcement; as all answers, raises WireError if it is not due."""
        if not self._announced:
            raise WireError("READY for a buffer that was not announced")
        self.has_answered = True
        ctl, _since = self._announced.popleft()
        self._ready.append(ctl)
        self.answers += 1
        self._answered(Phase.ANNOUNCE)

    def done(self, lost: Lost = NOTHING_LOST) -> None:
        if not self._sent or not self._ready:
            raise WireError("DONE for a buffer that was not sent")
        _ctl, since = self._sent.popleft()
        self.answering_s += self._clock.seconds() - since
        ctl = self._ready.popleft()
        self.answers += 1
        self.packets_done = ctl.packet_id_base + ctl.pkt_count
        if not self._sent:
            self._close_requests()
        elif self._owed:
            self._owed.forget(self.packets_done)
        self._repairs.done(self, ctl.buffer_id, lost)
        if ctl.is_end:
            # At once: who has kept all need not wait for the others to bring it to disk.
            self.client.kept_all()
        self._answered(Phase.SENT)

    def credit(self, credit: Credit) -> None:
        """It has buffers, and has room for more: the answer in place of READY and DONE."""
        if self._first is None:
            raise WireError("credit before a buffer was announced")
        said = self._credit
        if credit.done < said.done or credit.room < said.room:
            raise WireError("credit that goes back")
        self._credit = credit
        room = self._room
        while self._announced and self._announced[0][0].buffer_id <= room:
            self.ready()
        for lost in self._lost(credit, credit.done - said.done):
            self.done(lost)

    def _lost(self, credit: Credit, buffers: int) -> list[Lost]:
        """What was lost of each of so many buffers that are closed at once.

        Of each the same share: which of them it was is not said.
        """
        if buffers > len(self._sent):
            raise WireError("DONE for a buffer that was not sent")
        if not credit.lost:
            return [NOTHING_LOST] * buffers
        packets = [ctl.pkt_count for ctl, _ in islice(self._sent, buffers)]
        total = sum(packets)
        if credit.lost > total:
            raise WireError(f"{credit.lost} packets lost of {total}")
        if buffers == 1:
            return [Lost(credit.lost, credit.runs)]
        return [
            Lost(round(credit.lost * some / total), round(credit.runs * some / total))
            for some in packets
        ]

    def ask(self, known: int) -> None:
        """It has missed control packets, and knows of what has this number."""
        if self._control is None:
            raise WireError("a question about a stream that has not begun")
        # Whoever does not read what it asked for is not told more, and is out for nonsense now.
        self._control.check(known)
        self._asked = known
        if not self._outgoing.queue:
            self._answer()

    def want(self, buffer_id: int) -> None:
        """It lacks digests of a buffer's pieces."""
        if self._control is None:
            raise WireError("a question about a stream that has not begun")
        self._control.pieces.check(buffer_id)
        self._wanted[buffer_id] = None
        if not self._outgoing.queue:
            self._answer()

    def request(self, seqs: tuple[int, ...]) -> None:
        if not self._sent or not self._ready:
            raise WireError("a request before SENT")
        if self._rounds_known < self._repairs.rounds_told and self._owed:
            new = self._owed.without(seqs)
            if len(new) < len(seqs):
                # All were told to ask anew, and it does not know what is under way.
                self._rounds_known += 1
                seqs = tuple(new)
        most = self._repairs.plan.max_owed
        if self.packets_owed + len(seqs) > most:
            raise WireError(f"requests for more than {most} packets at once")
        if not self._dialect.answers_all and not self._repairs.window.holds_all(seqs):
            raise WireError("a request for a packet that is not held")
        self.packets_owed += len(seqs)
        if not self._dialect.answers_all:
            self._owed.update(seqs)
        # They may be kept for a while, and then by all: four bytes each.
        self._repairs.requested(self, array("I", seqs))

    def reported(self) -> None:
        self._has_reported = True
        self._answered(Phase.PROVE)

    # From the server.

    @property
    def owes(self) -> str | None:
        """The answer that is due from the client, and for which the others wait, if one is."""
        if self._sent:
            return Phase.SENT.value
        if self._is_ready_due:
            return Phase.ANNOUNCE.value
        return None

    @property
    def answers_due(self) -> int:
        """How many answers the client owes."""
        return len(self._sent) + self._is_ready_due

    @property
    def is_finishing(self) -> bool:
        """Whether the answer due is the client's last one, before which it syncs its file."""
        return not self._dialect.proves and bool(self._ready) and self._ready[0].is_end

    def owed_s(self) -> float:
        """Seconds for which the oldest answer has been due, and the others are held up for it."""
        return self._seconds_since(self._sent) or self.ready_owed_s()

    def ready_owed_s(self) -> float:
        """Seconds for which the oldest READY has been due."""
        return self._seconds_since(self._announced) if self._is_ready_due else 0.0

    @property
    def _room(self) -> int:
        """Up to which buffer the client has room: no more than a window is in flight."""
        return min(self._credit.room, self._credit.done + self._repairs.plan.window)

    @property
    def _is_ready_due(self) -> bool:
        """Whether the client has all that came before, and no room for what comes next."""
        return bool(self._announced) and not self._ready

    def _seconds_since(self, due: deque[tuple[BufferCtl, float]]) -> float:
        return self._clock.seconds() - due[0][1] if due else 0.0

    def leave(self) -> None:
        """Nothing waits for this client any more."""
        group, self._group = self._group, None
        if group is not None:
            self._repairs.left(self)
            if self._control is not None:
                self._control.forget(self)
            group.leave(self)
        self._requested.clear()
        self._owed.clear()

    def _answered(self, phase: Phase) -> None:
        if self._group is not None:
            self._group.answered(self, phase)

    def _answer(self) -> None:
        known, self._asked = self._asked, None
        wanted, self._wanted = self._wanted, {}
        if self._control is None or self._group is None:
            return
        if known is not None:
            self._control.ask(self, known)
        for buffer_id in wanted:
            answer = self._control.pieces.answer(buffer_id)
            if answer:
                self.tell(answer)

    # Retransmissions.

    def refill(self, queue: SendQueue) -> None:
        """Append the next of the requested packets, a bounded piece at a time."""
        if self._asked is not None or self._wanted:
            self._answer()
        if not self._requested:
            return
        capacity = self._repairs.plan.capacity
        seqs = list(islice(self._requested, max(_REPAIR_CHUNK // capacity, 1)))
        for _ in seqs:
            self._requested.popleft()
        self.packets_owed -= len(seqs)
        self._owed.discard(seqs)
        self._repairs.resending(len(seqs))
        for buffer, run in groupby(seqs, self._repairs.window.held):
            if buffer is not None:
                slots = [slot for seq in run if (slot := buffer.slot_of(seq)) is not None]
                payloads = [buffer.slots(slot, 1)[0] for slot in slots]
                queue.append(encode_sealed(self._dialect, buffer.headers, slots, payloads))
                self.client.resent(len(slots))
            elif self._dialect.answers_all:
                for seq in run:
                    queue.append(Packet(seq, 0, b"").encode(self._dialect))

    def _close_requests(self) -> None:
        """The client is done with all that it may have asked for.

        Late datagrams have brought it.  Where all is answered, answers
        still have to come, and before the next announcement.
        """
        if self._dialect.answers_all:
            while self._requested:
                self.refill(self._outgoing.queue)
        if self._owed or self._requested:
            self._requested.clear()
            self._owed.clear()
        self.packets_owed = 0
