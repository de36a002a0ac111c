"""How what was lost goes out again: combined for many by multicast, or to each by TCP.

After SENT, each client asks for what it lacks or says that it is done.  Once
all have, or most that will, the server knows the losses of the buffer: they
tell the rate control how the rate was, and they decide what is cheaper.  Where
it is cheaper to multicast, those who then ask for what is left are gathered
again, a few times.  All else, and whoever cannot decode, is served by TCP at
once; the rate control is told of those that came late when all have come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kollacast.congestion import CongestionControl
from kollacast.events.guard import Guard
from kollacast.packets.losses import Lost, lost_of
from kollacast.repair import Choice
from kollacast.repair.forecast import Forecast
from kollacast.repair.scheme import Demand
from kollacast.sending.answer_times import MOST_S, AnswerTimes
from kollacast.sending.coding import Coding, Over
from kollacast.sending.losses import Loser, Losses
from kollacast.sending.plan import Plan
from kollacast.sending.reach import Reach
from kollacast.sending.window import Flight, Window
from kollacast.transport.pacing import Pacer
from kollacast.transport.sender import MulticastProtocol
from kollacast.wire.messages import Notice, Repaired

#: Seconds for which nobody has asked, before it is held that all have who will.
_QUIET_S = 0.02
_TICK_S = 0.001
#: Fewer requested packets than these are not worth a round.
_MIN_REQUESTED = 16
#: Whoever asks again is gathered again: so often at the most, and where so many were served.
_MOST_ROUNDS = 4
#: Of a request, so many packets tell whether losses come in runs.
_SAMPLE = 48
_MANY_CLIENTS = 16


class Requester(Loser, Protocol):
    """A client that lacks packets."""

    def repair(self, seqs: Sequence[int]) -> None: ...  # send it these by TCP
    def repaired(self) -> None: ...  # what it has asked for has been multicast


@dataclass(slots=True, eq=False)
class _Gathering:
    """Requests for one buffer, while they are waited for and behind that."""

    times: AnswerTimes
    began_at: float
    unheard: set[Requester]  #: who has not answered
    wanted: dict[Requester, Sequence[int]] = field(default_factory=dict)
    #: When each client asked that was waited for, from the begin on.
    asked_s: list[float] = field(default_factory=list)
    asked: int = 0  #: how many have asked, those that were not waited for among them
    last_s: float = 0.0  #: when the last of them did
    is_open: bool = True  #: whether requests are waited for
    is_late: bool = False  #: whether most should have asked by now
    seen: int = -1  #: how many had asked when it was looked last
    end: IDelayedCall = field(init=False)  #: looks whether to wait on


@dataclass(slots=True, eq=False)
class _Repair:
    """What is known of one buffer since its SENT."""

    flight: Flight
    losses: Losses[Requester]
    gathering: _Gathering = field(init=False)
    rounds: int = 1
    loss: float | None = None  #: the share of packets that the worst of the served lost
    #: For whom coded packets are made, or under way.
    serving: set[Requester] = field(default_factory=set)
    #: Who has asked for the first time meanwhile, and for what.
    late: dict[Requester, Sequence[int]] = field(default_factory=dict)


class Repairs:
    """Answers requests; for each buffer a :class:`_Repair` after its SENT."""

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
        self._pacer = pacer
        self._control = control
        self._guard = guard
        self._repairs: dict[int, _Repair] = {}
        self._choice = Choice(plan.capacity)
        self._forecast = Forecast()
        self._coding = Coding(clock, sender, plan.capacity)
        # Whoever asks again has solved before for what it lacks.
        self._first_times, self._later_times = AnswerTimes(), AnswerTimes()
        #: Repairs that left by TCP.
        self.packets_resent = 0
        #: How often clients have been told to ask anew.
        self.rounds_told = 0
        self._is_stopped = False

    @property
    def packets_coded(self) -> int:
        """How many coded packets were multicast."""
        return self._coding.packets

    async def send_ahead(self, flight: Flight) -> None:
        """Make parity while the buffer of ``flight`` leaves, and let it follow.

        Returns once it has left; there is none where nobody is expected to need it.
        """
        ctl = flight.buffer.ctl
        if ctl.is_end or not self.plan.coding:
            return
        ahead = self._forecast.ahead(ctl.pkt_count)
        if not ahead.rows:
            return
        work = self._choice.ahead(flight.buffer.full(), ahead)
        try:
            made = await self._coding.make(work, lambda: not self._is_stopped)
        except Over:
            return
        await self._coding.send(made, urgent=False)
        flight.ahead, flight.ahead_loss = made.parity, ahead.loss

    def begin(self, flight: Flight, clients: Sequence[Requester]) -> None:
        """``flight`` has been multicast, and ``clients`` are told now."""
        if flight.buffer.ctl.is_end:
            return
        losses = Losses(flight, clients, self._control, self.reach, self._forecast)
        current = _Repair(flight, losses)
        if flight.ahead.count:
            # Who hears first that the buffer is sent asks for all, and then anew.
            self.rounds_told += 1
            current.loss = flight.ahead_loss
        self._repairs[flight.buffer.ctl.buffer_id] = current
        self._gather(current, self._first_times, clients)

    def requested(self, client: Requester, seqs: Sequence[int]) -> None:
        """``client`` asks for ``seqs``, all of them held."""
        current = self._repair_of(seqs)
        if current is None:
            client.repair(seqs)
            return
        is_first = client in current.losses.unheard
        if is_first:
            # A part tells whether they come in runs.
            part = lost_of(seqs[:_SAMPLE])
            runs = max(part.runs * len(seqs) // part.packets, 1)
            current.losses.asked(client, Lost(len(seqs), runs))
        gathering = current.gathering
        decodes = client.decodes and self.plan.coding
        if client in gathering.unheard:
            gathering.unheard.discard(client)
            gathering.asked_s.append(self._note(gathering))
            if gathering.is_open and decodes:
                self._want(current, client, seqs)
                return
        if not is_first or not decodes or self.reach.is_deaf(client.client):
            client.repair(seqs)
        elif current.serving:
            current.late[client] = seqs
        elif gathering.is_open and len(seqs) >= _MIN_REQUESTED:
            # It did not wait for the word of the parity before: many may be as late, and TCP
            # would carry as much for each of them.
            self._note(gathering)
            self._want(current, client, seqs)
            return
        else:
            client.repair(seqs)
        self._decide_if_all(current)

    def done(self, client: Requester, buffer_id: int, lost: Lost) -> None:
        """``client`` has the whole buffer, of which it had lost that."""
        current = self._repairs.get(buffer_id)
        if current is None:
            return
        current.losses.closed(client, lost)
        current.gathering.unheard.discard(client)
        self._decide_if_all(current)

    def resending(self, packets: int) -> None:
        """So many packets are about to leave once more, by TCP."""
        self.packets_resent += packets
        # In stop-and-wait the link is free again before the next buffer leaves, and who waits for
        # that in the jasmine dialect does not do so for long.
        if self.plan.dialect.max_window > 1:
            self._pacer.sent(packets * self.plan.capacity)

    def left(self, client: Requester) -> None:
        """``client`` is out, and not waited for."""
        self.reach.left(client.client)
        self._control.forget(client)
        for current in list(self._repairs.values()):
            current.gathering.wanted.pop(client, None)
            current.late.pop(client, None)
            current.serving.discard(client)
            current.losses.left(client)
            current.gathering.unheard.discard(client)
            self._decide_if_all(current)

    @property
    def is_mending(self) -> bool:
        """Whether coded packets are made, or under way."""
        return any(current.serving for current in self._repairs.values())

    def stop(self) -> None:
        """The session is over."""
        self._is_stopped = True
        for current in list(self._repairs.values()):
            self.end(current.flight)

    def end(self, flight: Flight) -> None:
        """All clients have the buffer of ``flight``, or are out."""
        current = self._repairs.pop(flight.buffer.ctl.buffer_id, None)
        if current is not None:
            self._measure(current.gathering)

    def _repair_of(self, seqs: Sequence[int]) -> _Repair | None:
        buffer = self.window.held(min(seqs)) if seqs else None
        if buffer is None or buffer.slot_of(max(seqs)) is None:
            return None
        return self._repairs.get(buffer.ctl.buffer_id)

    # Who has asked.

    def _gather(self, current: _Repair, times: AnswerTimes, clients: Sequence[Requester]) -> None:
        gathering = _Gathering(times, self._clock.seconds(), set(clients))
        gathering.end = self._guard.call_later(self._clock, times.wait_s, self._look, current)
        current.gathering = gathering

    def _note(self, gathering: _Gathering) -> float:
        """Somebody asks: when, from the begin on."""
        gathering.asked += 1
        gathering.last_s = self._clock.seconds() - gathering.began_at
        return gathering.last_s

    def _want(self, current: _Repair, client: Requester, seqs: Sequence[int]) -> None:
        gathering = current.gathering
        gathering.wanted[client] = seqs
        if not gathering.unheard:
            self._decide(current)
        elif len(gathering.wanted) == 1 and gathering.is_late:
            # The first one, and others may be about to come.
            gathering.end.reset(_QUIET_S)

    def _look(self, current: _Repair) -> None:
        """The time is up in which most should have asked: do they still come?"""
        gathering = current.gathering
        gathering.is_late = True
        waited_s = self._clock.seconds() - gathering.began_at
        again_s = MOST_S - waited_s
        if gathering.wanted:
            again_s = min(again_s, gathering.last_s + _QUIET_S - waited_s)
        elif not current.losses.is_reported:
            # Nobody may have lost anything, and that is known of those who have said so.
            current.losses.report()
        # A clock may not be able to tell less than a tick.
        if again_s < _TICK_S:
            if gathering.seen == gathering.asked:
                self._decide(current)
                return
            # The reactor may have been busy with other things: requests that have come meanwhile
            # are read in its next turn.
            gathering.seen = gathering.asked
            again_s = 0.0
        gathering.end = self._guard.call_later(self._clock, again_s, self._look, current)

    def _decide_if_all(self, current: _Repair) -> None:
        if current.gathering.is_open and not current.gathering.unheard:
            self._decide(current)

    def _close(self, gathering: _Gathering) -> None:
        """Nobody is waited for any more."""
        gathering.is_open = False
        if gathering.end.active():
            gathering.end.cancel()

    def _measure(self, gathering: _Gathering) -> None:
        """Who has not asked by now will not."""
        self._close(gathering)
        gathering.times.measured(gathering.asked_s)

    # What they get.

    def _decide(self, current: _Repair) -> None:
        gathering = current.gathering
        self._close(gathering)
        if not current.losses.is_reported:
            current.losses.report()
        # Whom nothing reaches any more, these would not reach, either.
        deaf = self.reach.is_deaf
        decoding = [client for client in gathering.wanted if not deaf(client.client)]
        requested = sum(len(gathering.wanted[client]) for client in decoding)
        if len(decoding) < 2 or requested < _MIN_REQUESTED:
            decoding = []
        wanted = {client: gathering.wanted.pop(client) for client in decoding}
        direct, gathering.wanted = gathering.wanted, {}
        for client, seqs in direct.items():
            client.repair(seqs)
        if wanted:
            self._guard.run(self._send_coded(current, wanted))

    async def _send_coded(self, current: _Repair, wanted: dict[Requester, Sequence[int]]) -> None:
        """Multicast what mends the most with the fewest packets."""
        current.serving = set(wanted)
        try:
            told = await self._make(current, wanted)
        except Over:
            # Late datagrams have brought all, and the buffer is another one now: nobody asks anew.
            for client in (*wanted, *current.late):
                client.repaired()
            return
        # But for who has left meanwhile.
        served = [client for client in wanted if client in current.serving]
        current.serving.clear()
        late, current.late = current.late, {}
        if told is not None and told.count:
            # Whoever has asked since may have received it, too.
            served += late
        else:
            for client, seqs in late.items():
                client.repair(seqs)
        if told is None:
            return
        self._gather_again(current, served)
        for client in served:
            client.repaired()
        self.rounds_told += 1
        self._post(told, told.buffer_id)

    async def _make(
        self, current: _Repair, wanted: dict[Requester, Sequence[int]]
    ) -> Repaired | None:
        """Make it and send it; None where all goes by TCP.  Raises Over."""
        buffer = current.flight.buffer
        ctl = buffer.ctl
        requests = list(wanted.values())
        capacity = self.plan.capacity
        demand = Demand(ctl.packet_id_base, buffer.full(), capacity, requests, current.loss)

        def is_needed() -> bool:
            return self._repairs.get(ctl.buffer_id) is current

        offer = await self._coding.make(self._choice.plan(demand), is_needed)
        direct = requests if offer is None else offer.direct
        for client, lacking in zip(wanted, direct, strict=True):
            if lacking:
                client.repair(lacking)
        if offer is None:
            return None
        if current.loss is None:
            current.loss = offer.loss
        made = await self._coding.make(offer.make(), is_needed)
        await self._coding.send(made, urgent=True)
        if not is_needed():
            raise Over
        return Repaired.of(ctl.buffer_id, made.parity)

    def _gather_again(self, current: _Repair, clients: Sequence[Requester]) -> None:
        """Those who ask again are many, or few and served by TCP."""
        if current.rounds >= _MOST_ROUNDS or len(clients) < _MANY_CLIENTS:
            return
        current.rounds += 1
        self._measure(current.gathering)
        self._gather(current, self._later_times, clients)
