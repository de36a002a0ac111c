"""One stream on its way out: announced ahead, multicast, repaired, proved.

It is made from a plan once those who begin with it are known.  It knows its members as places in
the barrier, and nothing of their names, secrets and connections.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kollacast.congestion import CongestionControl
from kollacast.events.guard import Guard
from kollacast.events.observer import Observer
from kollacast.files.source import Source
from kollacast.operator.expectation import UnexpectedImage
from kollacast.sending.barrier import GroupChain, Phase
from kollacast.sending.buffer_sizing import BufferSizing
from kollacast.sending.control import ControlStream
from kollacast.sending.followers import Followers
from kollacast.sending.history import History
from kollacast.sending.member import Member
from kollacast.sending.patience import HoldUp, Patience
from kollacast.sending.plan import Plan
from kollacast.sending.ration import Ration
from kollacast.sending.read_ahead import ReadAhead
from kollacast.sending.repairs import Repairs
from kollacast.sending.signed_packets import SignedPackets
from kollacast.sending.window import Flight
from kollacast.transport.pacing import Pacer
from kollacast.transport.sender import MulticastProtocol
from kollacast.transport.worker import Worker
from kollacast.wire.messages import BufferCtl, Notice, Repaired, Sent
from kollacast.wire.structures import SEQ_LIMIT

_log = Logger()


class CannotSend(Exception):
    """The stream ends here; the text is for the operator."""


class Transfer:
    """Brings ``source`` to its members, ``clients`` in the beginning, as ``plan`` says.

    ``reader`` and ``digest_worker`` are its threads.  What is raised on the way, ``guard`` is
    told: :class:`CannotSend`, or an error of the program.  The rate does not follow whoever takes
    less than ``least_bps``, bits a second, or where that is None, far less than others.
    """

    def __init__(
        self,
        clock: IReactorTime,
        source: Source,
        history: History,
        reader: Worker,
        digest_worker: Worker,
        sender: MulticastProtocol,
        pacer: Pacer,
        control: CongestionControl,
        plan: Plan,
        clients: int,
        guard: Guard,
        *,
        ration: Ration,
        patience: Patience,
        least_bps: float | None,
    ) -> None:
        self.plan = plan
        #: Payload bytes of all buffers that were multicast, or that everybody had.
        self.bytes_done = 0
        #: The image's digests by their names, once all of it is read.
        self.digests: dict[str, bytes] = {}
        #: What was announced last.
        self.announced: BufferCtl | None = None
        #: What each client has taken of the others' time, and whom they wait for.
        self.patience = patience
        self._sender = sender
        self._pacer = pacer
        self._guard = guard
        self._chain: GroupChain[Member] = GroupChain(plan.group_size, guard)
        self._control = Followers(
            control, least_bps, self._chain.__len__, self._may_go, self._too_slow
        )
        self._ration = ration
        self._clock = clock
        self._started_at = 0.0
        # When the first announcement was made, and a window of buffers was told to be sent.
        self._begun_at = 0.0
        self._sent_at: deque[float] = deque(maxlen=plan.window)
        # How fast the last buffer left, as far as that is known.
        self._sent_bps = 0.0
        # Where clients are told by multicast; else each is by its member.
        self._notices = (
            ControlStream(
                clock,
                plan.dialect,
                SignedPackets(plan.capacity, plan.signer, sender, guard),
                guard,
            )
            if plan.dialect.multicasts_control
            else None
        )
        self.repairs = Repairs(clock, plan, sender, pacer, self._control, self._post, guard)
        self.window = self.repairs.window
        self.hold_up = HoldUp(
            clock, patience, self._absent, self._chain.__len__, lambda: self.repairs.is_mending
        )
        self._digest_known: Observer[bytes] = Observer()
        # Announced and not multicast yet, and when all were ready for it.
        self._next: deque[tuple[Flight, Deferred[None]]] = deque()
        self._prepared: Deferred[None] | None = None
        self._through: Deferred[None] = succeed(None)
        # How many have left because they hear nothing.
        self._unreached = 0
        self._sizing = BufferSizing(
            plan.capacity, plan.buffer_packets, clients, size=plan.size, fixed=not plan.resizes
        )
        self._reader = ReadAhead(plan, source, history, reader, digest_worker, self._sizing.next)

    def start(self, members: Sequence[Member]) -> None:
        """Read and announce from now on, to ``members`` first."""
        self._started_at = self._clock.seconds()
        for member in members:
            self._enter(member, 0)
        self._guard.run(self._read())
        self._guard.run(self._announce_ahead())

    def join(self, member: Member) -> None:
        """``member`` is told of whatever is announced from now on."""
        self._enter(member, 0 if self._notices is None else self._notices.last)

    def start_anew(self, members: Sequence[Member]) -> None:
        """Whoever was told of the first buffers is gone, and ``members`` are here now."""
        for member in members:
            self._enter(member, 0)
        for _ in range(len(self._next)):
            flight, _ready = self._next.popleft()
            self._next.append((flight, self._begin(flight)))
        self._begun_at = self._clock.seconds()

    def stop(self) -> None:
        """The stream is over, for whatever reason."""
        self._digest_known.clear()
        self.repairs.stop()
        if self._notices is not None:
            self._notices.stop()

    # What the cycle waits for.

    def prepare(self) -> Deferred[None]:
        """Fires when the next buffer is announced, for the last one who asks."""
        prepared: Deferred[None] = Deferred()
        self._prepared = prepared
        self._go_on_if_prepared()
        return prepared

    def synchronize(self) -> Deferred[None]:
        """Fires when every member is ready for it."""
        _flight, ready = self._next[0]
        if not ready.called:
            self.hold_up.begin(self._due_at)
        return ready

    def send(self) -> Deferred[bool]:
        """Fires when it is multicast and all are told; with False for the one that is the end."""
        self.hold_up.end()
        flight, _ready = self._next.popleft()
        return Deferred.fromCoroutine(self._send(flight))

    def prove(self) -> Deferred[None]:
        """Fires when every member has all, and has reported so."""
        return Deferred.fromCoroutine(self._prove())

    # What members and clients ask.

    def known_digest(self) -> Deferred[bytes]:
        """Fires with the image's digest once all of it is read."""
        known = self.digests.get(self.plan.digest)
        return self._digest_known.wait() if known is None else succeed(known)

    def unreached(self, member: Member) -> str:
        """``member`` leaves, for it hears nothing; returns what has happened to it."""
        self._unreached += 1
        if self._unreached > 1 and self._chain.members == [member]:
            self.repairs.reach.say_none(self._unreached)
        return self.repairs.reach.what(member.client)

    def resent(self, member: Member, packets: int) -> None:
        """So many packets have gone to ``member`` by TCP, beside what the others get."""
        if self._sent_bps and not self.hold_up.is_on and len(self._chain) > 1:
            seconds = packets * self.plan.capacity * 8 / self._sent_bps
            self.patience.charge([member.client.name], seconds)

    def verdicts(self) -> dict[str, str]:
        """Names of members who are to go on by themselves, and why; to be asked all the time."""
        self.hold_up.look()
        elapsed_s = self._clock.seconds() - self._started_at
        if not self.patience.is_anybody_beyond(elapsed_s, len(self._chain)):
            return {}
        names = [member.client.name for member in self._chain.members]
        return self.patience.verdicts(elapsed_s, names)

    @property
    def buffers_in_flight(self) -> int:
        """How many are multicast, or have been, and are not with all yet."""
        return len(self.window.flights) - len(self._next)

    # Parts of it.

    async def _read(self) -> None:
        try:
            await self._reader.start()
            self.digests = await self._reader.digests()
        except OSError as error:
            raise CannotSend(f"cannot read the image: {error.strerror or error}") from None
        except (UnexpectedImage, MemoryError) as error:
            raise CannotSend(str(error)) from None
        told = " ".join(f"{name}:{value.hex()}" for name, value in self.digests.items())
        _log.info("all of the image is read: {digests}", event="image-read", digests=told)
        self._digest_known.fire(self.digests[self.plan.digest])

    async def _announce_ahead(self) -> None:
        """Announce buffers as long as the window has room for one more.

        Not those that all clients of a server that was started again have already.
        """
        seq = 0
        for buffer_id in itertools.count(1):
            await self.window.places.acquire()
            buffer, size, pieces = await self._reader.next()
            ctl = buffer.announce(buffer_id, seq, size)
            seq += ctl.pkt_count
            if seq > SEQ_LIMIT:
                raise CannotSend("the image has more packets than there are sequence numbers")
            if seq <= self.plan.kept and not ctl.is_end:
                self.bytes_done += size
                self.window.places.release()
                self._reader.release(buffer)
                continue
            self.announced = ctl
            flight = Flight(buffer)
            self.window.flights.append(flight)
            if self._notices is not None:
                self._notices.pieces.hold(buffer_id, pieces)
            self._post(ctl, buffer_id)
            self._begun_at = self._begun_at or self._clock.seconds()
            self._next.append((flight, self._begin(flight)))
            self._go_on_if_prepared()
            if ctl.is_end:
                return

    def _enter(self, member: Member, known: int) -> None:
        self.patience.enter(member.client.name, member.client.address)
        member.enter(self._chain.join(member), self.repairs, self._notices, known)

    def _post(self, notice: Notice, buffer_id: int, *more: Notice) -> None:
        if self._notices is not None:
            self._notices.post(notice, buffer_id, *more)

    def _tell_pieces(self, ctl: BufferCtl) -> None:
        if self._notices is not None:
            self._notices.pieces.tell(ctl.buffer_id)

    def _begin(self, flight: Flight) -> Deferred[None]:
        return self._chain.begin(Phase.ANNOUNCE, flight.buffer.ctl)

    def _go_on_if_prepared(self) -> None:
        if self._next and self._prepared is not None:
            prepared, self._prepared = self._prepared, None
            prepared.callback(None)

    async def _send(self, flight: Flight) -> bool:
        ctl = flight.buffer.ctl
        members = [member for member in self._chain.members if member.takes(ctl)]
        self._pacer.rate_bps = self._control.rate_bps
        flight.epoch = self._control.epoch
        clients = [member.client for member in members]
        if self.repairs.reach.is_in_vain(clients, ctl.buffer_id):
            self._sender.withhold(flight.buffer)
            flight.has_left = False
        # With nobody in step, the image is only read.
        if members and flight.has_left:
            self._tell_pieces(ctl)
            self._ration.begin()
            leaving = self._sender.multicast(flight.buffer)
            following = Deferred.fromCoroutine(self.repairs.send_ahead(flight))
            flight.sent_bps = await leaving
            await following
            # Once more: whoever has lost some of them would have to ask.
            self._tell_pieces(ctl)
            self._ration.end()
        flight.sent = True
        flight.has_left = flight.has_left and not self._sender.is_refused
        if flight.sent_bps:
            self._sizing.sent(flight.sent_bps)
            self._sent_bps = flight.sent_bps
        self.repairs.begin(flight, members)
        self.bytes_done += ctl.buffer_size
        self._tell_sent(flight)
        self._sent_at.append(self._clock.seconds())
        self._through = self._chain.begin(Phase.SENT, ctl)
        self._through.addCallback(lambda _: self._retire(flight)).addErrback(self._guard.failed)
        return not ctl.is_end

    @property
    def _due_at(self) -> float:
        """Since when members could have room for the next buffer, for they grant a window of it."""
        return self._sent_at[0] if len(self._sent_at) == self.plan.window else self._begun_at

    def _absent(self, most: int) -> list[str] | None:
        members = self._chain.absent(Phase.ANNOUNCE, most)
        return None if members is None else [member.client.name for member in members]

    def _may_go(self, client: Hashable) -> bool:
        return isinstance(client, Member) and client.client.may_go

    def _too_slow(self, client: Hashable, reason: str) -> None:
        if isinstance(client, Member):
            self.patience.condemn(client.client.name, reason)

    def _tell_sent(self, flight: Flight) -> None:
        buffer_id = flight.buffer.ctl.buffer_id
        packets = flight.buffer.ctl.pkt_count if flight.has_left else 0
        # Together, for who lacks something is to solve for it before it asks.
        repaired = [Repaired.of(buffer_id, flight.ahead)] if flight.ahead.count else []
        self._post(Sent(buffer_id, packets), buffer_id, *repaired)

    def _retire(self, flight: Flight) -> None:
        self.window.flights.remove(flight)
        self.repairs.end(flight)
        if self._notices is not None:
            self._notices.retire(flight.buffer.ctl.buffer_id)
        self._reader.release(flight.buffer)
        self.window.places.release()

    async def _prove(self) -> None:
        await self._through
        await self.known_digest()
        if self.plan.dialect.proves:
            await self._chain.begin(Phase.PROVE, None)
