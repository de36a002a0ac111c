"""One run of the server, from its open ports to its outcome."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Hashable
from dataclasses import asdict
from ipaddress import IPv4Address
from typing import Any

from twisted.internet.defer import (
    Deferred,
    DeferredList,
    DeferredQueue,
    DeferredSemaphore,
    maybeDeferred,
    succeed,
)
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast import congestion
from kollacast.events.observer import Observer
from kollacast.files.digest import Digester
from kollacast.files.source import Source
from kollacast.files.spool import Spool
from kollacast.operator.config import ServerConfig
from kollacast.operator.expectation import UnexpectedImage
from kollacast.operator.outcome import Outcome, Progress, Status
from kollacast.sending.barrier import GroupChain, Phase
from kollacast.sending.buffer_sizing import BufferSizing
from kollacast.sending.history import History
from kollacast.sending.reach import Reach
from kollacast.sending.read_ahead import ReadAhead
from kollacast.sending.repairs import Repairs
from kollacast.server.client_protocol import ClientFactory, ClientProtocol
from kollacast.server.cycle import cycle
from kollacast.server.gathering import Gathering
from kollacast.server.lobby import Lobby
from kollacast.server.roster import Roster
from kollacast.server.session import Flight, Session
from kollacast.server.watch import Watch
from kollacast.transport.pacing import Pacer
from kollacast.transport.sender import MulticastProtocol, open_sender
from kollacast.transport.worker import ThreadWorker, Worker
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.greeting import Hello
from kollacast.wire.structures import SEQ_LIMIT

_log = Logger()

#: Connections that may wait to be accepted: a whole cluster comes at once.
_BACKLOG = 4096
#: Connections without a hello at a time: clients of a cluster need a moment each, and no more.
_MAX_STRANGERS = 1024
#: Buffers that are filled while a full window is in flight.
_READ_AHEAD = 1
_ACCEPTING = "waiting for clients"

WorkerFactory = Callable[[Any, str], Worker]
SenderFactory = Callable[[Any, MulticastProtocol, str, int], Any]


class _Failure(Exception):
    """The session ends; the text is for the operator."""


class Server:
    """Brings ``source`` to the clients that ``config`` expects.

    What a pipe brings goes to ``spool`` as well, for those who need it later.  No more
    than ``max_connections`` are open at a time, which leaves room for ``config.clients``.
    ``reactor`` is also the clock.  ``make_worker`` and ``open_port`` take the
    place of threads and of the multicast port in tests.
    """

    def __init__(
        self,
        reactor: Any,
        config: ServerConfig,
        source: Source,
        *,
        spool: Spool | None = None,
        max_connections: int = sys.maxsize,
        make_worker: WorkerFactory = ThreadWorker,
        open_port: SenderFactory = open_sender,
    ) -> None:
        engine, warning = best_crc32c()
        if warning:
            _log.warn("{warning}", warning=warning)
        self.clock = reactor
        self.session = Session(config, engine, source.name, source.size, source.identity)
        self._reactor = reactor
        self._config = config
        self._source = source
        self._open_port = open_port
        self._workers = [make_worker(reactor, name) for name in ("read", "digest", "history")]
        self.history = History(source, spool, self._workers[2])
        self._pacer = Pacer(reactor, config.rate_bps)
        self._sender = MulticastProtocol(
            reactor,
            self.session.codec,
            self._pacer,
            (config.group, config.port),
            descending=self.session.dialect.descending,
        )
        self._control = congestion.choose(config.rate_bps)
        self._reach = Reach(lambda: self.session.window, self._can_leave, self._name_of)
        self.repairs = Repairs(
            reactor, self.session, self._sender, self._control, self._reach, self.fail
        )
        # Half of what the clients leave: as many may just have been shown the door.
        strangers = min((max_connections - config.clients) // 2, _MAX_STRANGERS)
        self.lobby: Lobby[ClientProtocol] = Lobby(max(strangers, 1))
        self._factory = ClientFactory(self, max_connections)
        self._chain = GroupChain(config.group_size)
        self._roster = Roster(reactor, config.clients)
        self._return_timer: Any = None
        # Clients that have left the barrier because they hear nothing.
        self._unreached = 0
        self._phase = "starting"
        self._cycle = cycle(self)
        self._gathering = Gathering(reactor, config, self._roster, self._end)
        self._watch = Watch(
            reactor,
            self._roster,
            timeout_s=config.client_timeout_s,
            patience_s=config.patience_s,
            ready_wait_s=self.session.dialect.ready_wait_s,
            can_fetch=lambda: self._lack is None,
        )
        self._finished: Deferred[Outcome] = Deferred()
        self._ended = False
        self._ports: list[Any] = []
        self._reader: ReadAhead | None = None
        self._digester = Digester(config.digest)
        self._announced: DeferredQueue[tuple[Flight, Deferred[None]]] = DeferredQueue()
        self._current: Flight
        self._ready: Deferred[None]
        self._sizing: BufferSizing
        self._window = DeferredSemaphore(1)
        self._has_sent = False
        self._all_announced = False
        self._through: Deferred[None] = succeed(None)
        self._bytes_done = 0
        self._digest: bytes | None = None
        self._digest_known: Observer[bytes] = Observer()
        self._proved = False
        self._started_at = 0.0
        self._seconds = 0.0

    # The run as a whole.

    def run(self) -> Deferred[Outcome]:
        """Fires with the outcome, whatever happens."""
        try:
            # What is known to be wrong already is worth nobody's waiting.
            self._config.expectation.check_known_size(self._source.size)
        except UnexpectedImage as error:
            self._end(str(error))
            return self._finished
        try:
            self._ports.append(
                self._reactor.listenTCP(self._config.port, self._factory, backlog=_BACKLOG)
            )
            if not self._config.unicast:
                self._ports.append(
                    self._open_port(
                        self._reactor, self._sender, self._config.local_ip, self._config.ttl
                    )
                )
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            self._end(f"cannot listen on port {error.port}: {reason}")
            return self._finished
        except OSError as error:
            self._end(f"cannot multicast from {self._config.local_ip}: {error.strerror}")
            return self._finished
        self._cycle.start()
        return self._finished

    def interrupt(self, reason: str) -> Deferred[None]:
        """End the run now; fires once all ports are closed.

        Before anything is sent, clients are told to look for the next server.
        """
        self._end(reason, later=not self._has_sent)
        closed: Deferred[None] = Deferred()

        def tell(outcome: Outcome) -> Outcome:
            closed.callback(None)
            return outcome

        self._finished.addCallback(tell)
        return closed

    def start_now(self) -> None:
        """Start with those who came; unless that is nobody, or all has started."""
        self._gathering.start_now()

    def progress(self) -> Progress:
        return Progress(
            phase=self._phase,
            bytes_done=self._bytes_done,
            bytes_total=self._source.size,
            clients=self._roster.verified if self._ended else self._roster.taking_part,
            clients_expected=self._config.clients,
            packets_repaired=self._roster.packets_repaired,
        )

    # What clients ask of their host.

    def refusal(self, hello: Hello | None) -> str | None:
        if self._ended:
            return "the session has ended"
        if self._pulls or (hello is not None and hello.pull):
            lack = "it cannot fetch" if hello is not None and not hello.fetch else self._lack
            if lack is not None:
                begun = self._phase != _ACCEPTING
                what = "the session has begun without this client" if begun else "all is fetched"
                return f"{what}, and {lack}"
        if hello is None and self.session.dialect.introduces:
            # Who it is decides: it may come back on another connection.
            return None
        if not self._roster.has_room(hello):
            return f"all {self._config.clients} clients are here already"
        return None

    def may_be_back(self, client: ClientProtocol) -> bool:
        return self._roster.may_be_back(client)

    @property
    def _lack(self) -> str | None:
        """Why nobody can go on outside the barrier, or None."""
        if not self.session.dialect.fetches:
            return "in this dialect nobody can join later"
        return self.history.lack

    def allows(self, address: str) -> bool:
        allowed = self._config.allowed
        return allowed is None or any(IPv4Address(address) in network for network in allowed)

    def greeting(self, nonce: str) -> bytes:
        can_fetch = self._lack is None
        return self.session.greet(
            nonce,
            fetch=can_fetch,
            pull=can_fetch and self._pulls,
            late_join=can_fetch and self._is_joinable,
        )

    @property
    def _pulls(self) -> bool:
        """Whether whoever comes now fetches by itself."""
        return self._config.unicast or self._phase != _ACCEPTING

    @property
    def _is_joinable(self) -> bool:
        """Whether who comes now may receive the rest by multicast."""
        return not (self._config.unicast or self._all_announced)

    def joined(self, client: ClientProtocol) -> str | None:
        self._roster.join(client)
        _log.info(
            "client {name} ({address}) is in: {count} of {expected}",
            name=client.record.name,
            address=client.record.address,
            count=len(self._roster),
            expected=self._config.clients,
        )
        self._gathering.came()
        why = self._why_apart(client)
        if why is None or (self._is_joinable and self._can_join_late(client)):
            member = client.new_member(self)
            member.group = self._chain.join(member)
        return why

    def _why_apart(self, client: ClientProtocol) -> str | None:
        """Why the client does not receive all of the image in step with the others, or None."""
        if self._config.unicast:
            return "the server was told to use no multicast"
        if self._pulls:
            return "it came after the start"
        if client.hello is not None and client.hello.pull:
            return "it has a part of the image already"
        return None

    def _can_join_late(self, client: ClientProtocol) -> bool:
        hello = client.hello
        return hello is not None and hello.late_join and self.session.fits(hello.packets)

    def repairing(self, size: int) -> None:
        # In stop-and-wait the link is free again before the next buffer leaves, and who waits for
        # that in the jasmine dialect does not do so for long.
        if self.session.dialect.max_window > 1:
            self._pacer.sent(size)

    def left(self, client: ClientProtocol) -> None:
        if self._phase == _ACCEPTING:
            if client.has_given_up:
                self._gathering.gave_up(client)
            else:
                self._roster.forget(client)
            return
        if client.is_stranger:
            self._roster.forget(client)
            if not self._roster.records:
                # Nobody but strangers has come, and nothing has been sent: the clients still may.
                self._phase = _ACCEPTING
                return
        else:
            self._roster.leave(client, is_awaited=client.may_return and self._lack is None)
        self._consider_end()

    def verified(self, client: ClientProtocol) -> None:
        self._consider_end()

    def digest(self) -> Deferred[bytes]:
        return self._digest_known.wait() if self._digest is None else succeed(self._digest)

    def unreached(self, client: ClientProtocol) -> str | None:
        member = client.member
        # Where nothing can be read again, repairs are all there is.
        if member is None or not self._can_leave(member):
            return None
        self._unreached += 1
        others = [other for other in self._roster.members if other is not member]
        if self._unreached > 1 and not others:
            self._reach.say_none(self._unreached)
        return f"{self._reach.what(member)} it"

    def _can_leave(self, member: Hashable) -> bool:
        """Whether a member goes on by itself where it hears nothing."""
        client = self._client_of(member)
        return client is not None and client.can_fetch and self._lack is None

    def _name_of(self, member: Hashable) -> str:
        client = self._client_of(member)
        return "?" if client is None else f"{client.record.name} ({client.record.address})"

    def _client_of(self, member: Hashable) -> ClientProtocol | None:
        return next((c for c in self._roster.clients if c.member is member), None)

    # The machine's work, state by state.

    def accept(self) -> Deferred[None]:
        self._phase = _ACCEPTING
        return self._gathering.begin()

    def prepare(self) -> Deferred[None]:
        if self._reader is None:
            self._begin()

        def announced(item: tuple[Flight, Deferred[None]]) -> None:
            self._current, self._ready = item

        return self._announced.get().addCallback(announced)

    def synchronize(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._synchronize())

    def send(self) -> Deferred[bool]:
        flight = self._current
        buffer = flight.buffer
        members = [member for member in self._roster.members if member.takes(buffer.ctl)]

        def sent(sent_bps: float) -> bool:
            flight.sent = True
            flight.sent_bps = sent_bps
            flight.has_left = flight.has_left and not self._sender.is_refused
            if sent_bps:
                self._sizing.sent(sent_bps)
            self.repairs.begin(flight, members)
            self._bytes_done += buffer.ctl.buffer_size
            self._through = self._chain.begin(Phase.SENT, buffer.ctl)
            self._through.addCallback(lambda _: self._retire(flight))
            return not buffer.ctl.is_end

        self._pacer.rate_bps = self._control.rate_bps
        flight.epoch = self._control.epoch
        if members and self._reach.is_in_vain(members, buffer.ctl.buffer_id):
            self._sender.withhold(buffer)
            flight.has_left = False
        # With nobody in step, the image is only read.
        is_heard = members and flight.has_left
        leaving = self._sender.multicast(buffer) if is_heard else succeed(0.0)
        return leaving.addCallback(sent)

    def finish(self) -> None:
        Deferred.fromCoroutine(self._prove()).addErrback(self.fail)

    def fail(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, _Failure):
            self._end(str(error))
        else:
            _log.failure("an error of the program", failure=failure)
            self._end(f"an error of the program: {error!r}")

    # Parts of it.

    async def _synchronize(self) -> None:
        """Wait for every READY; as long as only strangers were told of the buffer, for clients."""
        await self._ready
        while self._phase == _ACCEPTING:
            await self.accept()
            self._phase = "sending"
            self._started_at = self.clock.seconds()
            await self._chain.begin(Phase.ANNOUNCE, self._current.buffer.ctl)

    def _begin(self) -> None:
        """Everyone is in: read, announce and watch from now on."""
        self._phase = "sending"
        self._started_at = self.clock.seconds()
        self._roster.begin()
        members = [client for client in self._roster.clients if client.member is not None]
        self.session.limit([client.packets for client in members])
        self._sizing = BufferSizing(
            self.session.capacity,
            self.session.buffer_packets,
            max(len(members), 1),
            size=self.session.size,
            fixed=self._config.buffer_packets is not None or not self.session.dialect.resizes,
        )
        self._reader = ReadAhead(
            self._source,
            self._digester,
            *self._workers[:2],
            capacity=self.session.capacity,
            buffer_packets=self.session.buffer_packets,
            buffers=self.session.window + _READ_AHEAD,
            packets_next=self._sizing.next,
            history=self.history,
            expectation=self._config.expectation,
        )
        self._watch.start()
        reading = self._reader.start()
        reading.addCallbacks(self._read_all, self._cannot_read).addErrback(self.fail)
        announcing = Deferred.fromCoroutine(self._announce_ahead(self._reader))
        announcing.addErrback(self.fail)

    async def _announce_ahead(self, reader: ReadAhead) -> None:
        """Announce buffers as long as the window has room for one more.

        Not those that all clients of a server that was started again have already.
        """
        self._window = DeferredSemaphore(self.session.window)
        seq = 0
        kept = min((c.hello.kept if c.hello else 0 for c in self._roster.clients), default=0)
        for buffer_id in itertools.count(1):
            await self._window.acquire()
            buffer, size = await reader.next()
            ctl = buffer.announce(buffer_id, seq, size)
            seq += ctl.pkt_count
            if seq > SEQ_LIMIT:
                raise _Failure("the image has more packets than there are sequence numbers")
            if seq <= kept and not ctl.is_end:
                self._bytes_done += size
                self._window.release()
                reader.release(buffer)
                continue
            self._has_sent = True
            self._all_announced = ctl.is_end
            flight = Flight(buffer)
            self.session.flights.append(flight)
            self._announced.put((flight, self._chain.begin(Phase.ANNOUNCE, ctl)))
            if ctl.is_end:
                return

    def _retire(self, flight: Flight) -> None:
        self.session.flights.remove(flight)
        self.repairs.end(flight)
        assert self._reader is not None
        self._reader.release(flight.buffer)
        self._window.release()

    async def _prove(self) -> None:
        self._phase = "verifying"
        await self._through
        await self.digest()
        if self.session.dialect.proves:
            await self._chain.begin(Phase.PROVE, None)
        self._proved = True
        self._consider_end()

    def _read_all(self, _: None) -> Deferred[None]:
        assert self._reader is not None
        return self._reader.digest().addCallback(self._digested)

    def _digested(self, digest: bytes) -> None:
        self._digest = digest
        self._digest_known.fire(digest)

    def _consider_end(self) -> None:
        """End once nobody is left who has not got the image, and nobody may come back."""
        if self._return_timer is not None and self._return_timer.active():
            self._return_timer.cancel()
        if self._ended or not self._roster.all_verified:
            return
        verified = self._roster.verified > 0
        if verified and not self._proved:
            return
        back_s = self._roster.awaited_s(self._config.patience_s)
        if back_s > 0:
            self._return_timer = self._reactor.callLater(back_s, self._wait_no_more)
            return
        self._end(None if self._proved and verified else "no client is left")

    def _wait_no_more(self) -> None:
        self._roster.await_no_more()
        self._consider_end()

    def _cannot_read(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, OSError):
            self._end(f"cannot read the image: {error.strerror or error}")
        elif isinstance(error, (UnexpectedImage, MemoryError)):
            self._end(str(error))
        else:
            self.fail(failure)

    # The end.

    def _end(self, reason: str | None, *, later: bool = False) -> None:
        """The run is over: for ``reason``, or because all is done.

        With ``later``, clients are to look for the next server.
        """
        if self._ended:
            return
        self._ended = True
        self._phase = "ending"
        self._seconds = self.clock.seconds() - self._started_at if self._started_at else 0.0
        self._cycle.stop()
        self._watch.stop()
        self._gathering.stop()
        if self._return_timer is not None and self._return_timer.active():
            self._return_timer.cancel()
        self._digest_known.clear()
        self.repairs.stop()
        self.history.close()
        for worker in self._workers:
            worker.stop()
        self._source.close()
        closing = [client.end(reason, later=later) for client in list(self._factory.connections)]
        closing += [maybeDeferred(port.stopListening) for port in self._ports]
        ended = DeferredList(closing, consumeErrors=True).addCallback(
            lambda _: self._outcome(reason)
        )
        # What fails here, too, ends the run: nobody else would.
        ended.chainDeferred(self._finished)

    def _outcome(self, reason: str | None) -> Outcome:
        verified = self._roster.verified
        expected = self._config.clients
        if verified >= expected:
            # Whatever came after that has cost nobody anything.
            status, reason = Status.OK, None
        else:
            status = Status.PARTIAL if verified else Status.FAILED
        report = self._report(verified, reason)
        line = (
            f"{verified} of {expected} clients have the image: {report['bytes']} bytes"
            f" in {self._seconds:.1f} s ({report['throughput_bytes_per_s'] / 1e6:.1f} MB/s)"
        )
        if self._digest is not None:
            line += f", {self._config.digest} {self._digest.hex()}"
        without = self._roster.without(reason)
        if status is Status.OK:
            return Outcome(status, line, report)
        if reason is not None:
            line = reason if not verified else f"{reason}; {verified} of {expected} have the image"
        else:
            line = f"{verified} of {expected} clients have the image"
            absent = expected - len(self._roster.records)
            if absent > 0:
                line += f", {absent} never came"
        return Outcome(status, f"{line}; without: {without}" if without else line, report)

    def _report(self, verified: int, reason: str | None) -> dict[str, Any]:
        size = self._bytes_done
        throughput = size / self._seconds if self._seconds else 0.0
        return {
            "dialect": self.session.dialect.name,
            "group": self._config.group,
            "port": self._config.port,
            "name": self._source.name,
            "bytes": size,
            self._config.digest: None if self._digest is None else self._digest.hex(),
            "seconds": round(self._seconds, 3),
            "throughput_bytes_per_s": round(throughput),
            "packets_multicast": self._sender.packets_sent,
            "packets_coded": self.repairs.packets_coded,
            "packets_repaired": self._roster.packets_repaired,
            "clients_expected": self._config.clients,
            "clients_verified": verified,
            "reason": reason,
            "failsafe": self._config.failsafe,
            "clients": [asdict(record) for record in self._roster.records],
        }
