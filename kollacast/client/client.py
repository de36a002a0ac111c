"""One run of the client, from the first attempt to connect to its outcome."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.error import (
    CannotListenError,
    ConnectError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.client.connection import ServerConnection, ServerConnectionFactory
from kollacast.client.reception import Reception
from kollacast.config import ClientConfig
from kollacast.core.buffer import InconsistentBuffer
from kollacast.core.digest import Digester, available_digests
from kollacast.outcome import Outcome, Progress, Status
from kollacast.sink import Sink
from kollacast.transport.receiver import MulticastReceiver, open_receiver
from kollacast.transport.worker import ThreadWorker, Worker
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.greeting import Greeting, GroupInfo, Hello, Refusal, clean_text, encode_json
from kollacast.wire.parser import Digest, Message, Packet, Repaired, Report, Sent
from kollacast.wire.structures import BufferCtl, Tag, WireError, payload_capacity

_log = Logger()

#: Payload bytes of the buffers that this client is willing to hold.
_MEMORY = 64 * 1024 * 1024
#: Seconds in which a server must have greeted; it does so at once.
GREETING_TIMEOUT_S = 10.0
#: Seconds between attempts to connect: short at first, both start at once.
_RETRY_S = (0.05, 0.1)
#: Seconds that the server gets to read the last words.
_LINGER_S = 3.0

WorkerFactory = Callable[[Any, str], Worker]
ReceiverFactory = Callable[[Any, MulticastReceiver, tuple[str, int], str, int], Any]


def _why_not(error: BaseException | None) -> str:
    """Why an attempt to connect has failed, in a few words."""
    number = getattr(error, "osError", None) or getattr(error, "errno", None)
    if isinstance(number, int):
        return os.strerror(number)
    if isinstance(error, DNSLookupError):
        return "no host has this name"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return str(error)


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
        self._finished: Deferred[Outcome] = Deferred()
        self._ended = False
        self._phase = "connecting"
        self._attempts: Deferred[None] | None = None
        self._connection: ServerConnection | None = None
        self._closed: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._port: Any = None
        self._reception: Reception | None = None
        self._dialect: Dialect | None = None
        self._digester: Digester | None = None
        self._expected_digest: bytes | None = None
        self._digest: bytes | None = None
        self._size: int | None = None
        self._complete = False
        #: Fires when the image is compared and committed, or is not.
        self._committed: Deferred[None] | None = None
        self._verified = False
        self._server_name: str | None = None
        self._began_at = 0.0

    # The run as a whole.

    def run(self) -> Deferred[Outcome]:
        """Fires with the outcome, whatever happens."""
        self._began_at = self._reactor.seconds()
        self._attempts = Deferred.fromCoroutine(self._connect())
        self._attempts.addErrback(self._not_connected)
        return self._finished

    def interrupt(self, reason: str) -> Deferred[None]:
        """End the run now; fires once everything is closed."""
        self._end(reason)
        closed: Deferred[None] = Deferred()

        def tell(outcome: Outcome) -> Outcome:
            closed.callback(None)
            return outcome

        self._finished.addCallback(tell)
        return closed

    def progress(self) -> Progress:
        reception = self._reception
        return Progress(
            phase=self._phase,
            bytes_done=reception.bytes_flushed if reception else 0,
            bytes_total=self._size,
            clients=0,
            clients_expected=0,
            packets_repaired=reception.packets_repaired if reception else 0,
        )

    # Connecting.

    async def _connect(self) -> None:
        config = self._config
        deadline = self._began_at + config.connect_timeout_s
        attempt = 0
        while True:
            left = max(deadline - self._reactor.seconds(), 0.1)
            endpoint = self._endpoint(min(left, 10.0))
            try:
                await endpoint.connect(ServerConnectionFactory(lambda: ServerConnection(self)))
                return
            except (ConnectError, DNSLookupError, OSError) as error:
                reason = error
            delay = _RETRY_S[min(attempt, len(_RETRY_S) - 1)]
            attempt += 1
            if self._reactor.seconds() + delay > deadline:
                raise reason
            await deferLater(self._reactor, delay)

    def _endpoint(self, timeout_s: float) -> TCP4ClientEndpoint | HostnameEndpoint:
        # An address needs no resolver, which would be a thread for each attempt.
        kind = TCP4ClientEndpoint if isIPAddress(self._config.server_ip) else HostnameEndpoint
        return kind(self._reactor, self._config.server_ip, self._config.port, timeout=timeout_s)

    def _not_connected(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        self._end_unconnected(_why_not(failure.value))

    def _end_unconnected(self, why: str) -> None:
        config = self._config
        self._end(
            f"no server at {config.server_ip} port {config.port} within"
            f" {config.connect_timeout_s:g} s: {why}"
        )

    def connected(self, connection: ServerConnection) -> None:
        self._connection = connection
        self._closed = Deferred()
        if self._ended:
            connection.close()
            return
        self._timer = self._reactor.callLater(
            GREETING_TIMEOUT_S,
            self._end,
            f"what answers at {self._config.server_ip} port {self._config.port} is no kollacast"
            f" server: it has not greeted within {GREETING_TIMEOUT_S:g} s",
        )

    def lost(self, connection: ServerConnection, reason: Failure) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)
        if self._ended:
            return
        if self._reception is None:
            # A server that is about to end still takes connections for a moment.
            self._cancel_timer()
            self._connection = None
            deadline = self._began_at + self._config.connect_timeout_s
            if self._reactor.seconds() + _RETRY_S[0] > deadline:
                self._end_unconnected("what answers there closes the connection")
                return
            self._attempts = deferLater(self._reactor, _RETRY_S[0]).addCallback(
                lambda _: Deferred.fromCoroutine(self._connect())
            )
            self._attempts.addErrback(self._not_connected)
        elif self._committed is None:
            self._end("the server closed the connection before the image was complete")
        # Else all that the server has to say is known, and the disk has the last word.

    # What the server says.

    def received(self, message: Message) -> None:
        if isinstance(message, Refusal):
            self._end(f"the server refuses this client: {message.reason}")
        elif isinstance(message, Greeting):
            self._greeted(message)
        elif isinstance(message, GroupInfo):
            self._grouped(message)
        elif isinstance(message, Report):
            reason = message.fields.get("reason")
            text = clean_text(reason) if isinstance(reason, str) else "it gave no reason"
            self._end(f"the server gave up: {text}")
        elif self._reception is None:
            raise WireError("the server speaks out of turn")
        elif isinstance(message, BufferCtl):
            self._phase = "receiving"
            self._reception.buffer(message)
        elif isinstance(message, Sent):
            self._reception.sent()
        elif isinstance(message, Repaired):
            self._reception.repaired(message.buffer_id)
        elif isinstance(message, Packet):
            self._reception.packet(message)
        elif isinstance(message, Digest):
            self._prove(message.value)

    def broken(self, error: WireError) -> None:
        self._end(f"{self._config.server_ip} port {self._config.port}: {error}")

    def _greeted(self, greeting: Greeting) -> None:
        capacity = payload_capacity(greeting.mtu)
        packets = max(_MEMORY // capacity, 1)
        if packets < greeting.buffer_packets:
            _log.info("buffers of {packets} packets are the most for here", packets=packets)
        self._size = greeting.size
        self._server_name = greeting.name
        # First of all, so that the server hears by name of what goes wrong from here on.
        assert self._connection is not None
        self._dialect = KOLLACAST
        hello = Hello(self._config.name, packets, coding=greeting.coding)
        self._connection.send(hello.encode())
        if greeting.digest not in available_digests():
            self._end(f"the image is proved by {greeting.digest}, which is not installed here")
            return
        self._digester = Digester(greeting.digest)
        buffer_packets = min(greeting.buffer_packets, packets)
        self._open(
            KOLLACAST,
            greeting.salt,
            (greeting.group, greeting.port),
            capacity=capacity,
            buffer_packets=buffer_packets,
            window=min(greeting.window, packets // buffer_packets),
        )

    def _grouped(self, info: GroupInfo) -> None:
        self._digester = Digester("sha256")
        self._open(
            JASMINE,
            0,
            (info.group, info.port),
            capacity=payload_capacity(JASMINE.max_mtu),
            buffer_packets=JASMINE.max_buffer_packets,
            window=JASMINE.max_window,
        )

    def _open(
        self,
        dialect: Dialect,
        salt: int,
        group: tuple[str, int],
        *,
        capacity: int,
        buffer_packets: int,
        window: int,
    ) -> None:
        """Join the group and begin to receive."""
        self._cancel_timer()
        engine, warning = best_crc32c()
        if warning and dialect.greets:
            _log.warn("{warning}", warning=warning)
        assert self._connection is not None
        assert self._digester is not None
        self._dialect = dialect
        self._connection.stream.capacity = capacity
        disk, digest_worker = self._workers
        reception = Reception(
            self._connection,
            dialect,
            dialect.codec(salt, engine),
            capacity=capacity,
            buffer_packets=buffer_packets,
            window=window,
            sink=self._sink,
            digester=self._digester,
            disk=disk,
            digest_worker=digest_worker,
        )
        receiver = MulticastReceiver(self._reactor, reception.intake, reception.arrived)
        local_ip = self._config.local_ip
        try:
            self._port = self._open_port(
                self._reactor, receiver, group, local_ip, window * buffer_packets * capacity
            )
        except (CannotListenError, OSError) as error:
            reason = error.socketError if isinstance(error, CannotListenError) else error
            text = getattr(reason, "strerror", None) or reason
            self._end(f"cannot receive group {group[0]} port {group[1]} at {local_ip}: {text}")
            return
        reception.drain = receiver.drain
        reception.ended.addCallbacks(lambda _: self._received_all(), self._cannot_keep)
        self._reception = reception
        self._phase = "waiting for the others"

    # The end of the image.

    def _received_all(self) -> None:
        assert self._dialect is not None
        assert self._connection is not None
        self._complete = True
        self._phase = "verifying"
        if self._dialect.proves:
            self._connection.send(bytes((Tag.CLIENT_DONE,)))
        else:
            Deferred.fromCoroutine(self._commit()).addErrback(self._cannot_keep)

    def _prove(self, expected: bytes) -> None:
        if not self._complete or self._committed is not None:
            raise WireError("the digest comes before the end of the image, or twice")
        self._expected_digest = expected
        Deferred.fromCoroutine(self._commit()).addErrback(self._cannot_keep)

    async def _commit(self) -> None:
        """Compare digests, bring the image to disk and say so."""
        assert self._digester is not None
        assert self._dialect is not None
        disk, digest_worker = self._workers
        committed = self._committed = Deferred()
        try:
            self._digest = await digest_worker.run(self._digester.value)
            if self._ended:
                return
            if self._expected_digest is not None and self._digest != self._expected_digest:
                self._end(
                    f"the image is not the server's: its {self._digester.name} is"
                    f" {self._digest.hex()}, the server's {self._expected_digest.hex()}"
                )
                return
            await disk.run(self._sink.commit)
            self._verified = True
        finally:
            committed.callback(None)
        if not self._ended and self._connection is not None:
            if self._dialect.proves:
                self._connection.send(self._report_message(None))
            else:
                self._connection.send(bytes((Tag.CLIENT_DONE,)))
        self._end(None)

    def _cannot_keep(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, InconsistentBuffer):
            self._end(str(error))
        elif isinstance(error, BrokenPipeError):
            self._end("cannot write the image: nothing reads standard output any more")
        elif isinstance(error, OSError):
            self._end(f"cannot write the image: {error.strerror or error}")
        else:
            _log.failure("an error of the program", failure=failure)
            self._end(f"an error of the program: {error!r}")

    def _end(self, reason: str | None) -> None:
        """The run is over: for ``reason``, or because the image is here."""
        if self._ended:
            return
        self._ended = True
        self._phase = "ending"
        self._cancel_timer()
        if self._reception is not None:
            self._reception.stop()
        if self._attempts is not None:
            self._attempts.cancel()
        closing: list[Deferred[Any]] = []
        connection = self._connection
        if connection is not None and self._closed is not None:
            if reason is not None and self._dialect is not None and self._dialect.proves:
                connection.send(self._report_message(reason))
            closing.append(self._closed)
            timer = self._reactor.callLater(_LINGER_S, connection.abort)
            self._closed.addCallback(lambda _: timer.active() and timer.cancel())
            connection.close()
        if self._port is not None:
            closing.append(maybeDeferred(self._port.stopListening))
        if reason is not None:
            self._sink.abandon()
            if self._committed is not None:
                # The commit may have been quicker, and then the image is here after all.
                closing.append(self._committed)
        for worker in self._workers:
            worker.stop()
        DeferredList(closing, consumeErrors=True).addCallback(
            lambda _: self._finished.callback(self._outcome(reason))
        )

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _report_message(self, reason: str | None) -> bytes:
        return bytes((Tag.REPORT,)) + encode_json(self._report(reason))

    def _report(self, reason: str | None) -> dict[str, Any]:
        reception = self._reception
        counts = reception.intake.counts if reception else None
        name = self._digester.name if self._digester else "sha256"
        return {
            "ok": self._verified,
            "reason": reason,
            "name": self._config.name,
            "server": self._config.server_ip,
            "image": self._server_name,
            "dialect": self._dialect.name if self._dialect else None,
            "bytes": reception.bytes_flushed if reception else 0,
            name: self._digest.hex() if self._digest else None,
            "packets_multicast": counts.placed if counts else 0,
            "packets_repaired": reception.packets_repaired if reception else 0,
            "packets_decoded": counts.decoded if counts else 0,
            "packets_repeated": counts.repeated if counts else 0,
            "packets_damaged": counts.damaged if counts else 0,
            "seconds": round(self._reactor.seconds() - self._began_at, 3),
        }

    def _outcome(self, reason: str | None) -> Outcome:
        if not self._verified:
            reason = reason or "the image is not complete"
            return Outcome(Status.FAILED, reason, self._report(reason))
        report = self._report(None)
        assert self._digester is not None
        assert self._digest is not None
        line = (
            f"the image is here: {report['bytes']} bytes in {report['seconds']:.1f} s,"
            f" {report['packets_repaired']} packets repaired,"
            f" {self._digester.name} {self._digest.hex()}"
        )
        return Outcome(Status.OK, line, report)
