"""One run of the server, from its open ports to its outcome: who takes part in the stream."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast import congestion
from kollacast.events.guard import Guard
from kollacast.events.reactor import IReactor
from kollacast.files.source import Source
from kollacast.files.spool import Spool
from kollacast.operator.config import ServerConfig
from kollacast.operator.expectation import UnexpectedImage
from kollacast.operator.outcome import Outcome, Progress
from kollacast.sending.history import History
from kollacast.sending.plan import Plan, offer
from kollacast.sending.transfer import CannotSend, Transfer
from kollacast.server.admission import Situation
from kollacast.server.client import Client
from kollacast.server.connection import ClientFactory, ClientProtocol
from kollacast.server.credentials import Credentials
from kollacast.server.cycle import Stage, cycle, stage_of
from kollacast.server.gathering import Gathering
from kollacast.server.lobby import Lobby
from kollacast.server.roster import Roster
from kollacast.server.snapshot import Snapshot
from kollacast.server.watch import Watch
from kollacast.transport.pacing import Pacer
from kollacast.transport.sender import MulticastProtocol, open_sender
from kollacast.transport.worker import ThreadWorker, Worker
from kollacast.wire.checksum import best_crc32c

_log = Logger()

#: Connections that may wait to be accepted: a whole cluster comes at once.
_BACKLOG = 4096
#: Connections without a hello at a time: clients of a cluster need a moment each, and no more.
_MAX_UNIDENTIFIED = 1024

WorkerFactory = Callable[[IReactor, str], Worker]
SenderFactory = Callable[[IReactor, MulticastProtocol, str, int], "Port"]


class Port(Protocol):
    """An open port."""

    def stopListening(self) -> object:
        """Close it; fires once it is, where that takes a while."""


class Server:
    """Brings ``source`` to the clients that ``config`` expects.

    What a pipe brings goes to ``spool`` as well, for those who need it later.  No more
    than ``max_connections`` are open at a time, which leaves room for ``config.clients``.
    ``reactor`` is also the clock.  ``make_worker`` and ``open_port`` take the
    place of threads and of the multicast port in tests.
    """

    def __init__(
        self,
        reactor: IReactor,
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
        self.clock: IReactorTime = reactor
        self.guard = Guard(self.fail)
        self._reactor = reactor
        self._config = config
        self._source = source
        self._open_port = open_port
        self._offer = offer(config, engine, source.size, source.identity)
        self.credentials = Credentials(config, self._offer, source.name)
        self._workers = [make_worker(reactor, name) for name in ("read", "digest", "history")]
        self.history = History(source, spool, self._workers[2])
        self._pacer = Pacer(reactor, config.rate_bps)
        self._sender = MulticastProtocol(
            reactor,
            self._offer.codec,
            self._pacer,
            (config.group, config.port),
            descending=self._offer.dialect.descending,
        )
        # Half of what the clients leave: as many may just have been turned away.
        unidentified = min((max_connections - config.clients) // 2, _MAX_UNIDENTIFIED)
        self.lobby: Lobby[ClientProtocol] = Lobby(max(unidentified, 1))
        self._factory = ClientFactory(self, max_connections)
        self._roster = Roster(reactor, config.clients)
        self._cycle = cycle(self)
        self._gathering = Gathering(reactor, config, self._roster, self._stop, self.guard)
        self._watch = Watch(
            reactor,
            self._roster,
            timeout_s=config.client_timeout_s,
            patience_s=config.patience_s,
            ready_wait_s=self._offer.dialect.ready_wait_s,
            can_fetch=lambda: self.lack is None,
            guard=self.guard,
        )
        self._ports: list[Port] = []
        # Made once it is known who begins.
        self._transfer: Transfer | None = None
        self._return_timer: IDelayedCall | None = None
        self._started_at: float | None = None
        self._ended_at: float | None = None
        self._finished: Deferred[Outcome] = Deferred()

    # The run as a whole.

    def run(self) -> Deferred[Outcome]:
        """Fires with the outcome, whatever happens."""
        config = self._config
        try:
            # What is known to be wrong already is worth nobody's waiting.
            config.expectation.check_known_size(self._source.size)
            listening = self._reactor.listenTCP(config.port, self._factory, backlog=_BACKLOG)
            self._ports.append(listening)
            if not config.unicast:
                self._ports.append(
                    self._open_port(self._reactor, self._sender, config.local_ip, config.ttl)
                )
        except UnexpectedImage as error:
            self._stop(str(error))
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            self._stop(f"cannot listen on port {error.port}: {reason}")
        except OSError as error:
            self._stop(f"cannot multicast from {config.local_ip}: {error.strerror}")
        else:
            self.guard.wrap(self._cycle.start)()
        return self._finished

    def interrupt(self, reason: str) -> Deferred[None]:
        """End the run now; fires once all ports are closed.

        Before anything is sent, clients are told to look for the next server.
        """
        self._stop(reason, later=self._transfer is None or self._transfer.announced is None)
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
        """How far the run is."""
        return self.snapshot().progress()

    def snapshot(self) -> Snapshot:
        """All that there is to say of the run, at this moment."""
        transfer = self._transfer
        now = self.clock.seconds() if self._ended_at is None else self._ended_at
        return Snapshot(
            config=self._config,
            plan=self.plan,
            name=self._source.name,
            stage=self._stage,
            seconds=0.0 if self._started_at is None else now - self._started_at,
            bytes_done=transfer.bytes_done if transfer else 0,
            digest=transfer.digest if transfer else None,
            packets_multicast=self._sender.packets_sent,
            packets_coded=transfer.repairs.packets_coded if transfer else 0,
            buffers_in_flight=len(transfer.window.flights) if transfer else 0,
            connections=len(self._factory.connections),
            reads_waiting=len(self.history.waiting),
            clients=self._roster.entries(),
        )

    # What clients ask of their host.

    @property
    def plan(self) -> Plan:
        return self._offer if self._transfer is None else self._transfer.plan

    @property
    def lack(self) -> str | None:
        if not self._offer.dialect.fetches:
            return "in this dialect nobody can join later"
        return self.history.lack

    def situation(self, client: Client | None = None) -> Situation:
        announced = None if self._transfer is None else self._transfer.announced
        return Situation(
            stage=self._stage,
            offer=self._offer,
            agreed=self.plan,
            is_end_announced=announced is not None and announced.is_end,
            clients_expected=self._config.clients,
            allowed=self._config.allowed,
            unicast=self._config.unicast,
            lack=self.lack,
            has_room=self._roster.has_room(None if client is None else client.hello),
            may_be_back=client is not None and self._roster.may_be_back(client),
        )

    def greeting(self, nonce: str) -> bytes:
        now = self.situation()
        can_fetch = now.lack is None
        return self.credentials.greet(
            nonce,
            fetch=can_fetch,
            pull=can_fetch and now.all_fetch,
            late_join=can_fetch and now.is_joinable,
        )

    def joined(self, client: Client) -> None:
        self._roster.join(client)
        _log.info(
            "client {name} ({address}) is in: {count} of {expected}",
            name=client.record.name,
            address=client.record.address,
            count=len(self._roster),
            expected=self._config.clients,
        )
        self._gathering.came()
        if client.member is not None and self._stage is not Stage.GATHERING:
            self._stream.join(client.member)

    def left(self, client: Client) -> None:
        stage = self._stage
        if stage is Stage.GATHERING:
            if client.has_given_up:
                self._gathering.gave_up(client)
            else:
                self._roster.forget(client)
            return
        if client.is_unidentified and stage is not Stage.ENDED:
            self._roster.forget(client)
            if stage is Stage.SENDING and not self._roster.records:
                self._cycle.deserted()
                return
        else:
            self._roster.leave(client, is_awaited=client.may_return and self.lack is None)
        self.consider_end()

    def verified(self) -> None:
        self.consider_end()

    def known_digest(self) -> Deferred[bytes]:
        return self._stream.known_digest()

    def unreached(self, client: Client) -> str | None:
        # Where nothing can be read again, repairs are all there is.
        if client.member is None or not client.can_leave:
            return None
        if self._transfer is None:
            return "no multicast reaches it"
        return f"{self._transfer.unreached(client.member)} it"

    # The machine's work, state by state.

    def accept(self) -> Deferred[None]:
        return self._gathering.begin()

    def begin(self) -> Deferred[None]:
        self._started_at = self.clock.seconds()
        members = self._roster.members
        if self._transfer is not None:
            self._transfer.start_anew(members)
            return self._transfer.prepare()
        self._roster.begin()
        reader, digester, _history = self._workers
        self._transfer = Transfer(
            self.clock,
            self._roster.agree(self._offer),
            self._source,
            self.history,
            reader,
            digester,
            self._sender,
            self._pacer,
            congestion.choose(self._config.rate_bps),
            self.guard,
        )
        self._watch.start()
        self._transfer.start(members)
        return self._transfer.prepare()

    def prepare(self) -> Deferred[None]:
        return self._stream.prepare()

    def synchronize(self) -> Deferred[None]:
        return self._stream.synchronize()

    def send(self) -> Deferred[bool]:
        return self._stream.send()

    def finish(self) -> Deferred[None]:
        return self._stream.prove()

    def consider_end(self) -> None:
        """End once nobody is left who has not got the image, and nobody may come back."""
        self._await_no_more()
        stage = self._stage
        if stage is Stage.ENDED or not self._roster.all_verified:
            return
        has_verified = self._roster.verified > 0
        if has_verified and stage is not Stage.PROVED:
            return
        back_s = self._roster.awaited_s(self._config.patience_s)
        if back_s > 0:
            self._return_timer = self.guard.call_later(self.clock, back_s, self._wait_no_more)
            return
        is_well = has_verified and stage is Stage.PROVED
        self._stop(None if is_well else "no client is left")

    def fail(self, failure: Failure) -> None:
        """Some work has failed, and the run with it."""
        error = failure.value
        if isinstance(error, CannotSend):
            self._stop(str(error))
        else:
            _log.failure("an error of the program", failure=failure)
            self._stop(f"an error of the program: {error!r}")

    def _stop(self, reason: str | None, *, later: bool = False) -> None:
        self._cycle.stop(reason, later)

    @property
    def _stage(self) -> Stage:
        return stage_of(self._cycle)

    @property
    def _stream(self) -> Transfer:
        """The transfer, once it has begun."""
        assert self._transfer is not None
        return self._transfer

    # The end.

    def _await_no_more(self) -> None:
        if self._return_timer is not None and self._return_timer.active():
            self._return_timer.cancel()

    def _wait_no_more(self) -> None:
        self._roster.await_no_more()
        self.consider_end()

    def end(self, reason: str | None, later: bool) -> None:
        self._ended_at = self.clock.seconds()
        stops: list[Callable[[], object]] = [
            self._watch.stop,
            self._gathering.stop,
            self._await_no_more,
            self.history.close,
            *(worker.stop for worker in self._workers),
            self._source.close,
            *(partial(c.end, reason, later) for c in list(self._factory.connections)),
            *(port.stopListening for port in self._ports),
        ]
        if self._transfer is not None:
            stops.insert(0, self._transfer.stop)
        ending = [maybeDeferred(stop) for stop in stops]
        for end in ending:
            # Whatever cannot be closed, the run is over.
            end.addErrback(lambda failure: _log.failure("while ending", failure=failure))
        ended = DeferredList(ending).addCallback(lambda _: self.snapshot().outcome(reason))
        # What fails here, too, ends the run: nobody else would.
        ended.chainDeferred(self._finished)
