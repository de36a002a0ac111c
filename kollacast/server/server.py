"""One run of the server, from its open ports to its outcome."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger

from kollacast import congestion
from kollacast.events.reactor import IReactor
from kollacast.files.source import Source
from kollacast.files.spool import Spool
from kollacast.operator.config import ServerConfig
from kollacast.operator.expectation import UnexpectedImage
from kollacast.operator.outcome import Outcome, Progress
from kollacast.packets.sealed_run import SealedRun
from kollacast.sending.history import History
from kollacast.sending.patience import Patience
from kollacast.sending.plan import Plan, offer
from kollacast.sending.ration import Ration
from kollacast.sending.transfer import Transfer
from kollacast.server.connection import ClientFactory, ClientProtocol
from kollacast.server.credentials import Credentials
from kollacast.server.door import AcceptingPort, Door
from kollacast.server.lobby import Lobby
from kollacast.server.session import Session
from kollacast.server.snapshot import ClientEntry, Snapshot
from kollacast.transport.pacing import Pacer
from kollacast.transport.sender import MOST_AT_ONCE, MulticastProtocol, open_sender
from kollacast.transport.worker import MakeWorker, ThreadWorker
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.sealing import Seal

_log = Logger()

#: Connections that may wait to be accepted: a whole cluster comes at once.
_BACKLOG = 4096
#: Connections without a hello at a time: clients of a cluster need a moment each, and no more.
_MAX_UNIDENTIFIED = 1024

#: What it means that nobody proves anything.
_UNPROVED = (
    "nobody is proved without --tls-dir or --token-file: whoever comes counts as a host, and hosts"
    " take an image from whoever answers in the place of this server"
)

SenderFactory = Callable[[IReactor, MulticastProtocol, str, int], "Port"]


def _sealed_run(plan: Plan) -> SealedRun | None:
    """By way of which packets leave, where they are sealed."""
    if plan.seal_key is None:
        return None
    return SealedRun(Seal(plan.seal_key, plan.salt), plan.codec, plan.capacity, MOST_AT_ONCE)


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
        make_worker: MakeWorker = ThreadWorker,
        open_port: SenderFactory = open_sender,
    ) -> None:
        engine, warning = best_crc32c()
        if warning:
            _log.warn("{warning}", event="checksum-slow", warning=warning)
        self._reactor = reactor
        self._config = config
        self._source = source
        self._open_port = open_port
        plan = offer(config, engine, source.size, source.identity)
        self._workers = [make_worker(reactor, name) for name in ("read", "digest", "history")]
        reading, digesting, looking_back = self._workers
        self._pacer = pacer = Pacer(reactor, config.rate_bps)
        self._sender = MulticastProtocol(
            reactor,
            plan.codec,
            pacer,
            (config.group, config.port),
            descending=plan.dialect.descending,
            sealed_run=_sealed_run(plan),
        )
        ration = Ration(reactor, lambda: self._sender.bytes_sent)
        history = History(source, spool, looking_back, ration)
        control = congestion.choose(config.rate_bps)
        make_transfer = partial(
            Transfer,
            *(reactor, source, history, reading, digesting, self._sender, pacer, control),
            ration=ration,
            patience=Patience(config.patience_s),
            least_bps=config.min_rate_bps,
        )
        credentials = Credentials(config, plan, source.name)
        self._session = Session(
            reactor, config, plan, credentials, history, make_transfer, self._close
        )
        # Half of what the clients leave: as many may just have been turned away.
        unidentified = min((max_connections - config.clients) // 2, _MAX_UNIDENTIFIED)
        self._door = Door(reactor, config.clients, self._session.roster.knows)
        lobby: Lobby[ClientProtocol] = Lobby(max(unidentified, 1))
        self._factory = ClientFactory(self._session, self._door, lobby, max_connections)
        self._ports: list[Port] = []
        self._ended_at: float | None = None
        self._finished: Deferred[Outcome] = Deferred()

    @property
    def session(self) -> str | None:
        """What tells this session from all others, where the dialect has a word for it."""
        return self._session.credentials.session

    # The run as a whole.

    def run(self) -> Deferred[Outcome]:
        """Fires with the outcome, whatever happens."""
        config = self._config
        try:
            # What is known to be wrong already is worth nobody's waiting.
            if self._source.size is not None:
                config.expectation.check_size(self._source.size)
            listening = self._reactor.listenTCP(
                config.port,
                self._listener(),
                backlog=_BACKLOG,
                interface=config.listen_ip or config.local_ip,
            )
            self._ports.append(listening)
            self._door.watch(cast(AcceptingPort, listening))
            if not config.unicast:
                self._ports.append(
                    self._open_port(self._reactor, self._sender, config.local_ip, config.ttl)
                )
        except UnexpectedImage as error:
            self._session.stop(str(error))
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            self._session.stop(f"cannot listen on {error.interface} port {error.port}: {reason}")
        except OSError as error:
            self._session.stop(f"cannot multicast from {config.local_ip}: {error.strerror}")
        else:
            if not config.is_secure:
                _log.warn("{line}", event="unproved", line=_UNPROVED)
            self._session.start()
        return self._finished

    def interrupt(self, reason: str) -> Deferred[None]:
        """End the run now; fires once all ports are closed."""
        self._session.interrupt(reason)
        closed: Deferred[None] = Deferred()

        def tell(outcome: Outcome) -> Outcome:
            closed.callback(None)
            return outcome

        self._finished.addCallback(tell)
        return closed

    def start_now(self) -> None:
        """Start with those who came; unless that is nobody, or all has started."""
        self._session.gathering.start_now()

    def progress(self, most_hosts: int = 0) -> Progress:
        """How far the run is, and so many of its slowest hosts, where any are asked for."""
        entries = self._session.roster.entries() if most_hosts else ()
        return self._snapshot(entries).progress(most_hosts)

    def snapshot(self) -> Snapshot:
        """All that there is to say of the run, at this moment."""
        return self._snapshot(self._session.roster.entries())

    # Parts of it.

    def _listener(self) -> ServerFactory:
        """What takes connections: on TLS, where that is asked for."""
        if not self._config.is_secure:
            return self._factory
        # It takes its time to load.
        from kollacast.transport import tls

        secured = tls.server_side(self._config.certificates, self._factory, self._reactor)
        return cast(ServerFactory, secured)

    def _snapshot(self, clients: tuple[ClientEntry, ...]) -> Snapshot:
        session, transfer = self._session, self._session.transfer
        now = self._reactor.seconds() if self._ended_at is None else self._ended_at
        return Snapshot(
            config=self._config,
            plan=session.plan,
            name=self._source.name,
            stage=session.stage,
            seconds=0.0 if session.started_at is None else now - session.started_at,
            bytes_done=transfer.bytes_done if transfer else 0,
            digests=transfer.digests if transfer else {},
            packets_multicast=self._sender.packets_sent,
            packets_resent=transfer.repairs.packets_resent if transfer else 0,
            bytes_multicast=self._sender.bytes_sent,
            bytes_tcp=self._factory.bytes_sent,
            rate_bps=self._pacer.rate_bps,
            packets_coded=transfer.repairs.packets_coded if transfer else 0,
            buffers_in_flight=transfer.buffers_in_flight if transfer else 0,
            connections=len(self._factory.connections),
            reads_waiting=len(session.history.waiting),
            present=session.roster.present,
            verified=session.roster.verified,
            packets_repaired=session.roster.packets_repaired,
            clients=clients,
        )

    def _close(self, reason: str | None, later: bool) -> None:
        """The run is over: for ``reason``, or because all is done."""
        self._ended_at = self._reactor.seconds()
        stops: list[Callable[[], object]] = [
            *self._session.stops(),
            self._door.close,
            *(worker.stop for worker in self._workers),
            self._source.close,
            *(partial(c.end, reason, later) for c in list(self._factory.connections)),
            *(port.stopListening for port in self._ports),
        ]
        ending = [maybeDeferred(stop) for stop in stops]
        for end in ending:
            # Whatever cannot be closed, the run is over.
            end.addErrback(
                lambda failure: _log.failure("while ending", failure=failure, event="ending-failed")
            )
        ended = DeferredList(ending).addCallback(lambda _: self.snapshot().outcome(reason))
        # What fails here, too, ends the run: nobody else would.
        ended.chainDeferred(self._finished)
