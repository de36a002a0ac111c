"""One run of the client, from the first attempt to connect to its outcome.

A connection brings the image by a :class:`Route`; the :class:`Output` behind it
stays the same from one connection to the next.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hmac import compare_digest
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.client import terms as terms_of
from kollacast.client.attempts import RETRY_S, NotConnected, connect
from kollacast.client.connection import ServerConnection
from kollacast.client.terms import Terms
from kollacast.files.digest import Digester, available_digests
from kollacast.files.sink import Sink
from kollacast.operator.config import ClientConfig
from kollacast.operator.outcome import Outcome, Progress, Status
from kollacast.packets.buffer import InconsistentBuffer
from kollacast.receiving.output import Output
from kollacast.receiving.reception import Reception
from kollacast.receiving.route import ReceiverFactory, Route
from kollacast.receiving.shape import Way
from kollacast.transport.receiver import open_receiver
from kollacast.transport.worker import ThreadWorker, Worker
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.greeting import Greeting, GroupInfo, Hello, Refusal
from kollacast.wire.messages import Digest, Done, Message, Proof, Report
from kollacast.wire.packets import PacketCodec
from kollacast.wire.proof import METHOD, Challenge
from kollacast.wire.structures import WireError

_log = Logger()

#: Seconds in which a server must have greeted; it does so at once, unless it is a jasmine server
#: with another session, which leaves who comes in its backlog, without a word.
GREETING_TIMEOUT_S = 10.0
#: Seconds that the server gets to read the last words.
_LINGER_S = 3.0
#: Seconds until the next attempt after a refusal that is only for now.
_REFUSED_RETRY_S = 1.0
#: Seconds after which a connection on which nothing has begun was one to a server that waited.
_WAIT_S = 10.0

WorkerFactory = Callable[[Any, str], Worker]


class Client:
    """Brings the image from the server that ``config`` names to ``sink``.

    ``reactor`` is also the clock.  ``make_worker`` and ``open_port`` take the
    place of threads and of the multicast port in tests.
    """

    def __init__(
        self,
        reactor: Any,
        config: ClientConfig,
        sink: Sink,
        *,
        make_worker: WorkerFactory = ThreadWorker,
        open_port: ReceiverFactory = open_receiver,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._sink = sink
        self._open_port = open_port
        self._workers = [make_worker(reactor, name) for name in ("disk", "digest")]
        self._run_id = secrets.token_hex(8)
        self._finished: Deferred[Outcome] = Deferred()
        self._ended = False
        self._began_at = 0.0
        # The connection.
        self._attempts: Deferred[None] | None = None
        self._deadline = 0.0
        self._bytes_at_loss = -1
        self._refused_for_now: str | None = None
        self._is_told_to_look_on = False
        self._connected_at = 0.0
        self._connection: ServerConnection | None = None
        self._closed: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._proof_due: bytes | None = None
        # What is agreed on, and how the image comes.
        self._terms: Terms | None = None
        self._output: Output | None = None
        self._route: Route | None = None
        self._routes: list[Route] = []
        self._routes_closing: list[Deferred[Any]] = []
        # Its end.
        self._complete = False
        self._expected_digest: bytes | None = None
        self._digest: bytes | None = None
        #: Fires when the image is compared and committed, or is not.
        self._committed: Deferred[None] | None = None
        self._verified = False
        # Whether this host, or who runs it, has ended the run.
        self._is_own_fault = False

    # The run as a whole.

    def run(self) -> Deferred[Outcome]:
        """Fires with the outcome, whatever happens."""
        self._began_at = self._reactor.seconds()
        self._deadline = self._began_at + self._config.connect_timeout_s
        self._connect()
        return self._finished

    def interrupt(self, reason: str) -> Deferred[None]:
        """End the run now; fires once everything is closed."""
        self._is_own_fault = True
        self._end(reason, keep=True)
        closed: Deferred[None] = Deferred()

        def tell(outcome: Outcome) -> Outcome:
            closed.callback(None)
            return outcome

        self._finished.addCallback(tell)
        return closed

    def progress(self) -> Progress:
        return Progress(
            phase=self._phase,
            bytes_done=self._output.bytes_kept if self._output else 0,
            bytes_total=self._terms.size if self._terms else None,
            clients=0,
            clients_expected=0,
            packets_repaired=self._packets_repaired,
        )

    @property
    def _phase(self) -> str:
        if self._ended:
            return "ending"
        return "connecting" if self._route is None else self._route.phase

    # Connecting.

    def _connect(self) -> None:
        config = self._config
        self._attempts = Deferred.fromCoroutine(
            connect(
                self._reactor,
                config.server_ip,
                config.port,
                self._deadline,
                lambda: ServerConnection(self),
            )
        )
        self._attempts.addErrback(self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(NotConnected):
            self._end_unconnected(str(failure.value))
        else:
            self._cannot_keep(failure)

    def _end_unconnected(self, why: str) -> None:
        config = self._config
        lost = "" if self._output is None else "the connection was lost, and "
        self._end(
            f"{lost}no server at {config.server_ip} port {config.port} within"
            f" {config.connect_timeout_s:g} s: {why}",
            keep=True,
        )

    def connected(self, connection: ServerConnection) -> None:
        self._connection = connection
        self._connected_at = self._reactor.seconds()
        self._closed = Deferred()
        if self._ended:
            connection.close()
            return
        self._timer = self._reactor.callLater(
            GREETING_TIMEOUT_S, self._not_greeted, connection, self._reactor.seconds()
        )

    def _not_greeted(self, connection: ServerConnection, since: float) -> None:
        self._timer = None
        what = f"what answers at {self._config.server_ip} port {self._config.port}"
        if connection.has_heard:
            self._end(
                f"{what} is no kollacast server: it has not greeted within {GREETING_TIMEOUT_S:g} s"
            )
            return
        now = self._reactor.seconds()
        line = (
            f"{what} has not said a word within {now - since:.0f} s: it is a jasmine server in the"
            " middle of another session, or hangs, or is no kollacast server"
        )
        left = self._deadline - now
        if left <= 0:
            self._end(line, keep=True)
            return
        _log.warn("{line}; waiting for {left:.0f} s more", line=line, left=left)
        self._timer = self._reactor.callLater(left, self._not_greeted, connection, since)

    def lost(self, connection: ServerConnection, reason: Failure) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)
        if self._ended:
            return
        self._cancel_timer()
        self._connection = None
        is_told, self._is_told_to_look_on = self._is_told_to_look_on, False
        stood_s = self._reactor.seconds() - self._connected_at
        if is_told or (self._waits_for_others and stood_s > _WAIT_S):
            # Somebody has ended a server that waited, maybe not for the first time.
            self._deadline = self._reactor.seconds() + self._config.connect_timeout_s
        if self._committed is not None:
            # All that the server has to say is known, and the disk has the last word.
            return
        if self._output is None:
            # A server that is about to end still takes connections for a moment.
            self._connect_again("what answers there closes the connection")
        elif self._terms is not None and (self._terms.shape.can_fetch or self._waits_for_others):
            if self._refused_for_now is None and not is_told:
                _log.warn("the connection to the server is lost: trying to come back")
            self._come_back(self._output)
        else:
            self._end("the server closed the connection before the image was complete")

    @property
    def _waits_for_others(self) -> bool:
        """Whether this client has said who it is, and nothing has begun: it misses nothing."""
        route = self._route
        return route is not None and not route.has_begun and self._greets

    @property
    def _may_look_on(self) -> bool:
        """Whether the next server can bring what this one has not."""
        can_fetch = self._terms is not None and self._terms.shape.can_fetch
        return self._route is None or self._waits_for_others or can_fetch

    @property
    def _greets(self) -> bool:
        return self._terms is not None and self._terms.shape.dialect.introduces

    def _try_later(self, reason: str) -> None:
        """The server takes an earlier connection of this host for one that still works."""
        if self._refused_for_now is None:
            _log.warn("the server refuses this client for now: {reason}", reason=reason)
        self._refused_for_now = reason
        assert self._connection is not None
        self._connection.close()

    def _look_on(self, reason: str) -> None:
        """The server has ended before it has begun, and another one may follow."""
        _log.warn(
            "the server gave up before it began: {reason}; looking for the next one for"
            " {seconds:g} s",
            reason=reason,
            seconds=self._config.connect_timeout_s,
        )
        self._is_told_to_look_on = True
        self._cancel_timer()
        assert self._connection is not None
        self._connection.close()

    def _connect_again(self, why: str) -> None:
        refused = self._refused_for_now
        delay = RETRY_S[0] if refused is None else _REFUSED_RETRY_S
        if self._reactor.seconds() + delay <= self._deadline:
            self._attempts = deferLater(self._reactor, delay)
            self._attempts.addCallbacks(lambda _: self._connect(), self._not_connected)
        elif refused is not None:
            self._end(f"the server refuses this client: {refused}", keep=True)
        else:
            self._end_unconnected(why)

    def _come_back(self, output: Output) -> None:
        """Look for the server again, to go on from what is kept."""
        self._complete = False
        self._expected_digest = None
        self._leave_route()

        def settled(_: None) -> None:
            if self._ended:
                return
            if output.bytes_kept > self._bytes_at_loss:
                # Something has come since the last time: this is not for ever.
                self._bytes_at_loss = output.bytes_kept
                self._deadline = self._reactor.seconds() + self._config.connect_timeout_s
            self._connect_again("what answers there closes the connection")

        self._when_settled(output, settled)

    # What the server says.

    def received(self, message: Message) -> None:
        if isinstance(message, Refusal):
            self._end(f"the server refuses this client: {message.reason}", keep=True)
        elif isinstance(message, Greeting):
            agreeing = Deferred.fromCoroutine(self._greeted(terms_of.of_greeting(message)))
            agreeing.addErrback(self._cannot_keep)
        elif isinstance(message, GroupInfo):
            self._cancel_timer()
            if self._config.secret is not None:
                self._end("the server speaks jasmine, and does not prove the shared secret")
                return
            self._terms = terms_of.of_group_info(message)
            self._take_output(self._new_output(self._terms, 0))
            self._begin_route(self._terms, Way.IN_STEP)
        elif isinstance(message, Report):
            refused, later = message.says("refused"), message.says("later")
            if later and refused and self._waits_for_others:
                self._try_later(message.reason)
                return
            if later and not refused and self._may_look_on:
                self._look_on(message.reason)
                return
            what = "refuses this client" if refused else "gave up"
            self._end(f"the server {what}: {message.reason}", keep=True)
        elif self._proof_due is not None:
            if not (isinstance(message, Proof) and compare_digest(message.value, self._proof_due)):
                self._end("the server does not know the shared secret")
            self._proof_due = None
        elif isinstance(message, Digest):
            self._prove(message.value)
        elif self._route is not None:
            self._refused_for_now = None
            self._route.received(message)
        else:
            raise WireError("the server speaks out of turn")

    def broken(self, error: WireError) -> None:
        self._end(f"{self._config.server_ip} port {self._config.port}: {error}")

    # Agreeing on how the image comes.

    async def _greeted(self, terms: Terms) -> None:
        self._cancel_timer()
        connection = self._connection
        assert connection is not None
        if (terms.auth is None) != (self._config.secret is None):
            lacks = "the server does not ask for the shared secret, and so does not prove it"
            asks = "the server asks for a shared secret: give --token-file"
            self._end(lacks if terms.auth is None else asks)
            return
        if terms.auth not in (None, METHOD):
            self._end(f"the server asks for a proof by {terms.auth}, which is not known here")
            return
        if terms.packets < terms.shape.buffer_packets:
            _log.info("buffers of {packets} packets are the most for here", packets=terms.packets)
        resumable = terms.shape.can_fetch and terms.digest in available_digests()
        before, output = self._terms, self._output
        kept = 0
        if output is None and resumable:
            kept = await self._workers[0].run(self._sink.resume, terms.image, terms.shape.capacity)
        elif output is not None and not (before is not None and before.is_same_image(terms)):
            await self._start_over(output)
            output = self._output = None
        if self._ended or connection is not self._connection:
            return
        self._terms = terms
        kept = output.bytes_kept if output is not None else kept
        way = terms.way(kept, self._sink.can_skip and not self._is_unreached)
        pull = way is not Way.IN_STEP
        # First of all, so that the server hears by name of what goes wrong from here on.
        client_nonce, proof = self._prove_secret(terms)
        hello = Hello(
            self._config.name,
            terms.packets,
            coding=terms.coding,
            fetch=terms.shape.can_fetch,
            pull=pull,
            late_join=way is Way.LATE,
            kept=-(-kept // terms.shape.capacity) if pull else 0,
            run=self._run_id if terms.shape.can_fetch else "",
            nonce=client_nonce,
            proof=proof,
        )
        connection.send(hello.encode())
        if terms.digest not in available_digests():
            self._end(f"the image is proved by {terms.digest}, which is not installed here")
            return
        connection.stream.capacity = terms.shape.capacity
        if output is None:
            output = self._new_output(terms, kept)
            self._take_output(output)
            if kept:
                _log.info("{kept} bytes are here already: going on behind them", kept=kept)
        self._begin_route(terms, way)

    @property
    def _is_unreached(self) -> bool:
        """Whether multicast has passed this host by from the beginning."""
        return any(route.is_unreached for route in self._routes)

    def _prove_secret(self, terms: Terms) -> tuple[str, str]:
        """This side's nonce and proof; the server's proof is due from now on."""
        if self._config.secret is None:
            return "", ""
        nonce = secrets.token_hex(16)
        challenge = Challenge(terms.session, terms.nonce, nonce)
        self._proof_due = challenge.proof(self._config.secret, "server")
        return nonce, challenge.proof(self._config.secret, "client").hex()

    async def _start_over(self, output: Output) -> None:
        _log.warn("the server has another image now: starting over")
        try:
            await self._workers[0].run(self._sink.restart)
        except OSError:
            self._end(
                "the server has another image now, and a part of the first one is written already"
            )

    def _new_output(self, terms: Terms, kept: int) -> Output:
        disk, digest_worker = self._workers
        return Output(self._sink, Digester(terms.digest), disk, digest_worker, kept)

    def _take_output(self, output: Output) -> None:
        output.failed = self._cannot_keep
        self._output = output
        self._bytes_at_loss = -1
        output.begin()

    # How it comes.

    def _codec(self, terms: Terms) -> PacketCodec:
        engine, warning = best_crc32c()
        if warning and terms.shape.dialect.seeds_crc and not self._routes:
            _log.warn("{warning}", warning=warning)
        return terms.shape.dialect.codec(terms.shape.salt, engine)

    def _begin_route(self, terms: Terms, way: Way) -> None:
        connection, output = self._connection, self._output
        assert connection is not None
        assert output is not None
        connection.stream.capacity = terms.shape.capacity
        route = Route(
            self._reactor,
            connection,
            terms.shape,
            self._codec(terms),
            output,
            self._config.local_ip,
            self._open_port,
        )
        route.ended.addCallbacks(lambda _: self._received_all(), self._cannot_keep)
        self._routes.append(route)
        self._route = route
        route.begin(way)

    def _leave_route(self) -> None:
        """Nothing more comes the way it has come so far."""
        if self._route is not None:
            self._routes_closing.append(self._route.stop())
            self._route = None

    def _when_settled(self, output: Output, then: Callable[[None], None]) -> None:
        output.settled().addCallback(
            lambda _: None if self._ended or self._output is not output else then(None)
        ).addErrback(self._cannot_keep)

    # The end of the image.

    def _received_all(self) -> None:
        assert self._terms is not None
        self._complete = True
        if not self._terms.shape.dialect.proves or self._expected_digest is not None:
            self._begin_commit()

    def _prove(self, expected: bytes) -> None:
        is_over = self._complete or (self._route is not None and self._route.over)
        if self._expected_digest is not None or not is_over:
            raise WireError("the digest comes before the end of the image, or twice")
        self._expected_digest = expected
        if self._complete:
            self._begin_commit()

    def _begin_commit(self) -> None:
        Deferred.fromCoroutine(self._commit()).addErrback(self._cannot_keep)

    async def _commit(self) -> None:
        """Compare digests, bring the image to disk and say so."""
        assert self._output is not None
        assert self._terms is not None
        committed = self._committed = Deferred()
        try:
            self._digest = await self._output.digest()
            if self._ended:
                return
            if self._expected_digest is not None and self._digest != self._expected_digest:
                self._end(
                    f"the image is not the server's: its {self._terms.digest} is"
                    f" {self._digest.hex()}, the server's {self._expected_digest.hex()}"
                )
                return
            await self._output.commit(self._digest)
            self._verified = True
        finally:
            committed.callback(None)
        if not self._ended and self._connection is not None:
            if self._terms.shape.dialect.proves:
                self._connection.send(Report(self._report(None)).encode(self._terms.shape.dialect))
            else:
                self._connection.send(Done().encode(self._terms.shape.dialect))
        self._end(None)

    def _cannot_keep(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, InconsistentBuffer):
            self._end(str(error))
            return
        if not self._ended:
            # Another source of the image would not help.
            self._is_own_fault = True
        if isinstance(error, BrokenPipeError):
            self._end("cannot write the image: nothing reads standard output any more")
        elif isinstance(error, OSError):
            self._end(f"cannot write the image: {error.strerror or error}")
        elif isinstance(error, MemoryError):
            self._end(f"cannot hold the image: {error}")
        elif not self._ended:
            _log.failure("an error of the program", failure=failure)
            self._end(f"an error of the program: {error!r}")

    def _end(self, reason: str | None, *, keep: bool = False) -> None:
        """The run is over: for ``reason``, or because the image is here.

        With ``keep``, a later run can go on from what is here.
        """
        if self._ended:
            return
        self._ended = True
        self._cancel_timer()
        self._leave_route()
        if self._attempts is not None:
            self._attempts.cancel()
        closing: list[Deferred[Any]] = list(self._routes_closing)
        connection = self._connection
        if connection is not None and self._closed is not None:
            if reason is not None and self._terms is not None and self._terms.shape.dialect.proves:
                connection.send(Report(self._report(reason)).encode(self._terms.shape.dialect))
            closing.append(self._closed)
            timer = self._reactor.callLater(_LINGER_S, connection.abort)
            self._closed.addCallback(lambda _: timer.active() and timer.cancel())
            if reason is None and self._terms is not None and self._terms.shape.dialect.proves:
                connection.await_close()
            else:
                connection.close()
        if reason is not None:
            self._sink.abandon(keep)
            if self._committed is not None:
                # The commit may have been quicker, and then the image is here after all.
                closing.append(self._committed)
        for worker in self._workers:
            worker.stop()
        ended = DeferredList(closing, consumeErrors=True).addCallback(
            lambda _: self._outcome(reason)
        )
        # What fails here, too, ends the run: nobody else would.
        ended.chainDeferred(self._finished)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    # What is told of it.

    @property
    def _failsafe(self) -> str | None:
        return self._config.failsafe or (self._terms.failsafe if self._terms else None)

    @property
    def _receptions(self) -> list[Reception]:
        return [reception for route in self._routes for reception in route.receptions]

    @property
    def _packets_repaired(self) -> int:
        return sum(reception.packets_repaired for reception in self._receptions)

    def _report(self, reason: str | None) -> dict[str, Any]:
        terms, output = self._terms, self._output
        counts = [reception.intake.counts for reception in self._receptions]
        return {
            "ok": self._verified,
            "reason": reason,
            "name": self._config.name,
            "server": self._config.server_ip,
            "image": terms.name if terms else None,
            "dialect": terms.shape.dialect.name if terms else None,
            "bytes": output.bytes_kept if output else 0,
            "bytes_resumed": output.bytes_resumed if output else 0,
            terms.digest if terms else "sha256": self._digest.hex() if self._digest else None,
            "packets_multicast": sum(count.placed for count in counts),
            "packets_repaired": self._packets_repaired,
            "packets_fetched": sum(f.packets for route in self._routes for f in route.fetchings),
            "packets_decoded": sum(count.decoded for count in counts),
            "packets_repeated": sum(count.repeated for count in counts),
            "packets_damaged": sum(count.damaged for count in counts),
            "failsafe": self._failsafe,
            "seconds": round(self._reactor.seconds() - self._began_at, 3),
        }

    def _outcome(self, reason: str | None) -> Outcome:
        if not self._verified:
            reason = reason or "the image is not complete"
            failsafe = self._failsafe
            if failsafe is None or self._is_own_fault:
                return Outcome(Status.FAILED, reason, self._report(reason))
            line = f"{reason}; the failsafe registry {failsafe} has the image"
            return Outcome(Status.FAILSAFE, line, self._report(reason))
        report = self._report(None)
        assert self._terms is not None
        assert self._digest is not None
        line = (
            f"the image is here: {report['bytes']} bytes in {report['seconds']:.1f} s,"
            f" {report['packets_repaired']} packets repaired,"
        )
        if report["packets_fetched"]:
            line += f" {report['packets_fetched']} fetched,"
        line += f" {self._terms.digest} {self._digest.hex()}"
        return Outcome(Status.OK, line, report)
