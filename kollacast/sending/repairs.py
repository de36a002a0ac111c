"""How what was lost goes out again: combined for many by multicast, or to each by TCP.

After SENT, each client asks for what it lacks or says that it is done.  Once
all have, or after a short grace, the server knows the losses of the buffer:
they tell the rate control how the rate was, and they decide what is cheaper.
Whoever asks again, later, or for something else is served by TCP at once; the
rate control is told of those that came late when all of them have come.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater

from kollacast.congestion import CongestionControl
from kollacast.events.guard import Guard
from kollacast.packets.buffer import PacketBuffer
from kollacast.repair import SCHEME, Encoder
from kollacast.sending.plan import Plan
from kollacast.sending.reach import Listener, Reach
from kollacast.sending.window import Flight, Window
from kollacast.transport.pacing import Pacer
from kollacast.transport.sender import MulticastProtocol
from kollacast.wire.messages import Notice, Repaired

#: Seconds for which first requests are gathered.
_GRACE_S = 0.1
#: Fewer requested packets than these are not worth a round.
_MIN_REQUESTED = 16
#: Coded packets must be at most this part of what TCP would carry.
_WORTH = 0.8
#: Requested packets that are planned before the reactor gets its turn again.
_SLICE = 1024


class Requester(Hashable, Protocol):
    """A client that lacks packets."""

    decodes: bool

    @property
    def client(self) -> Listener: ...
    def repair(self, seqs: Sequence[int]) -> None: ...  # send it these by TCP
    def repaired(self) -> None: ...  # what it has asked for has been multicast


@dataclass(slots=True, eq=False)
class _Round:
    """The first requests for one buffer."""

    flight: Flight
    unheard: set[Requester]
    grace: IDelayedCall = field(init=False)  #: ends the wait for them
    wanted: dict[Requester, tuple[int, ...]] = field(default_factory=dict)
    #: How many packets each client lacked, and in how many runs, that the rate control does not
    #: know of.
    lost: dict[Requester, tuple[int, int]] = field(default_factory=dict)
    decided: bool = False


class Repairs:
    """Answers requests; one :class:`_Round` for each buffer after its SENT."""

    def __init__(
        self,
        clock: IReactorTime,
        plan: Plan,
        sender: MulticastProtocol,
        pacer: Pacer,
        control: CongestionControl,
        post: Callable[[Notice, int], None],
        guard: Guard,
    ) -> None:
        self._post = post
        self._clock = clock
        self.plan = plan
        #: The buffers in flight.
        self.window = Window(plan.window + plan.dialect.announced_ahead)
        self.reach = Reach(plan.window)
        self._sender = sender
        self._pacer = pacer
        self._control = control
        self._guard = guard
        self._rounds: dict[int, _Round] = {}
        self._encoder: Encoder = SCHEME.encoder(plan.capacity)
        self.packets_coded = 0
        #: How often clients have been told to ask anew.
        self.rounds_told = 0

    def begin(self, flight: Flight, clients: Sequence[Requester]) -> None:
        """``flight`` has been multicast, and ``clients`` are told now."""
        if flight.buffer.ctl.is_end:
            return
        current = _Round(flight, set(clients))
        current.grace = self._guard.call_later(self._clock, _GRACE_S, self._decide, current)
        self._rounds[flight.buffer.ctl.buffer_id] = current

    def requested(self, client: Requester, seqs: tuple[int, ...]) -> None:
        """``client`` asks for ``seqs``, all of them held."""
        current = self._round_of(seqs)
        if current is None or client not in current.unheard:
            client.repair(seqs)
            return
        if current.decided:
            client.repair(seqs)
        else:
            current.wanted[client] = seqs
        runs = 1 + sum(after - before != 1 for before, after in pairwise(seqs))
        self._hear(current, client, (len(seqs), runs))

    def done(self, client: Requester, buffer_id: int) -> None:
        """``client`` has the whole buffer."""
        current = self._rounds.get(buffer_id)
        if current is not None and client in current.unheard:
            self._hear(current, client, (0, 0))

    def resending(self, size: int) -> None:
        """So many bytes of retransmissions are about to leave by TCP."""
        # In stop-and-wait the link is free again before the next buffer leaves, and who waits for
        # that in the jasmine dialect does not do so for long.
        if self.plan.dialect.max_window > 1:
            self._pacer.sent(size)

    def left(self, client: Requester) -> None:
        """``client`` is out, and not waited for."""
        self.reach.left(client.client)
        self._control.forget(client)
        for current in list(self._rounds.values()):
            current.wanted.pop(client, None)
            current.lost.pop(client, None)
            if client in current.unheard:
                current.unheard.discard(client)
                self._go_on_if_all(current)

    def stop(self) -> None:
        """The session is over."""
        for current in list(self._rounds.values()):
            self.end(current.flight)

    def end(self, flight: Flight) -> None:
        """All clients have the buffer of ``flight``, or are out."""
        current = self._rounds.pop(flight.buffer.ctl.buffer_id, None)
        if current is not None and current.grace.active():
            current.grace.cancel()

    def _round_of(self, seqs: tuple[int, ...]) -> _Round | None:
        buffer = self.window.held(seqs[0]) if seqs else None
        if buffer is None or any(buffer.slot_of(seq) is None for seq in (min(seqs), max(seqs))):
            return None
        return self._rounds.get(buffer.ctl.buffer_id)

    def _hear(self, current: _Round, client: Requester, lost: tuple[int, int]) -> None:
        current.unheard.discard(client)
        current.lost[client] = lost
        if current.flight.has_left:
            self.reach.answered(client.client, lost[0], current.flight.buffer.ctl)
        self._go_on_if_all(current)

    def _go_on_if_all(self, current: _Round) -> None:
        if current.unheard:
            return
        if current.decided:
            self._report(current)
        else:
            current.grace.cancel()
            self._decide(current)

    def _decide(self, current: _Round) -> None:
        current.decided = True
        self._report(current)
        # Whom nothing reaches any more, these would not reach, either.
        deaf = self.reach.is_deaf
        decoding = [c for c in current.wanted if c.decodes and not deaf(c.client)]
        requested = sum(len(current.wanted[client]) for client in decoding)
        if len(decoding) < 2 or requested < _MIN_REQUESTED or not self.plan.coding:
            decoding = []
        wanted = {client: current.wanted.pop(client) for client in decoding}
        direct, current.wanted = current.wanted, {}
        for client, seqs in direct.items():
            client.repair(seqs)
        if wanted:
            self._guard.run(self._send_coded(current, wanted))

    def _report(self, current: _Round) -> None:
        flight = current.flight
        if flight.sent_bps and current.lost:
            packets = flight.buffer.ctl.pkt_count
            losses: dict[Hashable, float] = {c: n / packets for c, (n, _) in current.lost.items()}
            bursts: dict[Hashable, float] = {
                c: n / runs for c, (n, runs) in current.lost.items() if runs
            }
            self._control.report(flight.epoch, flight.sent_bps, packets, losses, bursts)
        current.lost.clear()

    async def _send_coded(self, current: _Round, wanted: dict[Requester, tuple[int, ...]]) -> None:
        """Multicast what mends the most with the fewest packets."""
        buffer = current.flight.buffer
        buffer_id = buffer.ctl.buffer_id
        base = buffer.ctl.packet_id_base
        mending = self._encoder.begin(buffer.get)
        direct: list[tuple[Requester, list[int]]] = []
        for start in range(base, base + buffer.ctl.pkt_count, _SLICE):
            slices = [[s for s in seqs if start <= s < start + _SLICE] for seqs in wanted.values()]
            if not mending.add(slices, _WORTH * sum(map(len, slices))):
                direct += zip(wanted, slices, strict=True)
            await deferLater(self._clock, 0)
            if self._rounds.get(buffer_id) is not current:
                # Late datagrams have brought all, and the buffer is another one now.
                break
        else:
            for client, lacking in direct:
                if lacking:
                    client.repair(lacking)
            leaving: list[Deferred[float]] = []
            for seq, payloads in mending.runs():
                self.packets_coded += len(payloads)
                # Full packets, which count up from the first one.
                coded = PacketBuffer(buffer.capacity, len(payloads))
                coded.payload[:] = b"".join(payloads)
                coded.announce(0, seq, len(coded.payload))
                leaving.append(self._sender.multicast(coded, urgent=True))
            for left in leaving:
                await left
        for client in wanted:
            client.repaired()
        self.rounds_told += 1
        self._post(Repaired(buffer_id), buffer_id)
