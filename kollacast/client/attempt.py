"""One attempt to get the image: connects, and does what the conversation's machine asks for."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.client.connecting import Secure, connect
from kollacast.client.conversation import AttemptConversation, conversation, hear
from kollacast.client.endings import Ending, Failed, Got, Lost
from kollacast.client.local_copy import LocalCopy
from kollacast.client.terms import Terms
from kollacast.events.guard import Guard
from kollacast.events.reactor import IReactor
from kollacast.files.digest import KNOWN_DIGESTS
from kollacast.operator.config import ClientConfig
from kollacast.receiving.connection import ServerConnection
from kollacast.receiving.route import OpenReceiver, Route
from kollacast.receiving.shape import Way
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.greeting import Challenge, Greeting, Hello, Response
from kollacast.wire.messages import Digest, Done, Message, Report
from kollacast.wire.proof import METHOD, Agreement
from kollacast.wire.structures import WireError

_log = Logger()

#: Seconds in which a server must have greeted; it does so at once, unless it is a jasmine server
#: with another session, which leaves who comes in its backlog, without a word.
GREETING_TIMEOUT_S = 10.0
#: What the machine hears of at any time; of the rest, once the image has begun to come, none
#: changes the state.
_OF_THE_END = (Digest, Report)
#: Seconds that the server gets to read the last words.
_LINGER_S = 3.0


class Attempt:
    """Brings the image to ``copy`` over one connection; what goes wrong is told to ``guard``.

    ``run_id`` is the same for all attempts of a run, ``report`` makes what the
    server is told of it, ``secure`` what connections are of which a server is believed.
    """

    def __init__(
        self,
        reactor: IReactor,
        config: ClientConfig,
        copy: LocalCopy,
        guard: Guard,
        *,
        run_id: str,
        secure: Secure,
        open_port: OpenReceiver,
        report: Callable[[str | None], dict[str, Any]],
    ) -> None:
        #: How the image comes, once that is agreed on, and until the attempt is over.
        self.route: Route | None = None
        self._reactor = reactor
        self._config = config
        self._copy = copy
        self._guard = guard
        self._run_id = run_id
        self._secure = secure
        self._open_port = open_port
        self._report = report
        self._machine: AttemptConversation = conversation(self)
        self._server = f"{config.server_ip} port {config.port}"
        self._deadline = 0.0
        self._connecting: Deferred[None] | None = None
        self._connected_at = 0.0
        self._connection: ServerConnection | None = None
        self._timer: IDelayedCall | None = None
        self._terms: Terms | None = None
        # What the server has to prove, once it has challenged this host.
        self._agreement: Agreement | None = None
        self._digest_due: bytes | None = None
        self._stream_hears: Callable[[Message], None] | None = None
        self._is_over = False
        self._ended: Deferred[Ending] = Deferred()
        self._closing: list[Deferred[None]] = []

    def run(self, deadline: float) -> Deferred[Ending]:
        """Fires once the attempt is over: when a server was found until ``deadline``, or not."""
        self._deadline = deadline
        self._connecting = self._guard.run(self._connect())
        return self._ended

    def fail(self, failed: Failed) -> None:
        """End the run, unless the attempt is over."""
        self._machine.fail(failed)
        if failed.is_program_error:
            # The machine may have stopped in the middle of a step to the end.
            self.end(failed)

    def closed(self) -> Deferred[None]:
        """Fires once an attempt that is over has nothing open any more."""
        return DeferredList(self._closing, consumeErrors=True).addCallback(lambda _: None)

    # The connection.

    async def _connect(self) -> None:
        host, port = self._config.server_ip, self._config.port
        try:
            why = await connect(
                self._reactor, host, port, self._deadline, self._new_connection, self._secure
            )
        except (CancelledError, ConnectingCancelledError):
            return  # the attempt is over
        if why is not None:
            self.fail(not_found(self._config, why, self._copy))

    def _new_connection(self) -> ServerConnection | None:
        """The one that is about to open; None where it is not needed.

        A host with several addresses may answer at more than one.
        """
        if self._is_over or self._connection is not None:
            return None
        # From here on there is nothing else to call off.
        self._connecting = None
        self._connection = ServerConnection(
            self._opened, self._hear, self._lose, self._guard, is_secure=self._config.is_secure
        )
        self._closing.append(self._connection.closed)
        return self._connection

    def _opened(self) -> None:
        self._connected_at = self._reactor.seconds()
        self._timer = self._guard.call_later(self._reactor, GREETING_TIMEOUT_S, self._not_greeted)

    def _hear(self, message: Message) -> None:
        if self._stream_hears is None or isinstance(message, _OF_THE_END):
            hear(self._machine, message)
        else:
            self._stream_hears(message)

    def _lose(self, error: WireError | None) -> None:
        if error is None:
            self._machine.lost(Lost())
        else:
            self.fail(Failed(f"{self._server}: {error}"))

    def _not_greeted(self) -> None:
        assert self._connection is not None
        what = f"what answers at {self._server}"
        if self._connection.has_heard:
            text = f"it has not greeted within {GREETING_TIMEOUT_S:g} s"
            self.fail(Failed(f"{what} is no kollacast server: {text}"))
            return
        line = (
            f"{what} has not said a word within {self.connected_s:.0f} s: it is a jasmine server in"
            " the middle of another session, or hangs, or is no kollacast server"
        )
        left = self._deadline - self._reactor.seconds()
        if left > 0:
            _log.warn(
                "{line}; waiting for {left:.0f} s more",
                event="server-silent",
                line=line,
                left=left,
            )
            self._timer = self._guard.call_later(self._reactor, left, self._not_greeted)
        else:
            self.fail(Failed(line, keep=True))

    # What the machine asks for.

    @property
    def connected_s(self) -> float:
        return self._reactor.seconds() - self._connected_at

    @property
    def can_fetch(self) -> bool:
        return self._terms is not None and self._terms.shape.can_fetch

    def respond(self, challenge: Challenge) -> None:
        secret, connection = self._config.secret, self._connection
        assert connection is not None
        if challenge.auth != METHOD:
            text = f"the server asks for a proof by {challenge.auth}, which is not known here"
            self.fail(Failed(text))
        elif secret is None:
            self.fail(Failed("the server asks for a shared secret: give --token-file"))
        else:
            nonce = secrets.token_hex(16)
            self._agreement = Agreement(challenge.nonce, nonce, connection.binding)
            proof = self._agreement.proof(secret, "client")
            connection.send(Response(nonce, proof.hex()).encode())

    def agree(self, terms: Terms) -> None:
        self._cancel_timer()
        # Before the server is proved, nothing of what it says is looked at.
        objection = self._objection(terms.greeting)
        if objection is not None:
            self.fail(Failed(objection))
        else:
            self._guard.run(self._agree(terms))

    def _objection(self, greeting: Greeting) -> str | None:
        """What is wrong with how the server proves to know the shared secret, or hands out keys."""
        if greeting.seal is not None and not self._config.is_secure:
            return (
                "the server tells the key to what it multicasts where anybody can read it: the"
                " multicast would be no secret"
            )
        secret = self._config.secret
        if secret is None:
            return None
        if self._agreement is None:
            return "the server does not ask for the shared secret, and so does not prove it"
        if not self._agreement.holds(secret, "server", greeting.proof):
            return "the server does not know the shared secret, or somebody relays what it says"
        return None

    async def _agree(self, terms: Terms) -> None:
        if terms.packets < terms.greeting.buffer_packets:
            _log.info(
                "buffers of {packets} packets are the most for here",
                event="buffers-smaller",
                packets=terms.packets,
            )
        kept = await self._copy.look(terms)
        if not terms.shape.dialect.introduces:
            self._machine.joined(terms, kept)
        else:
            self._machine.agreed(terms, kept)

    def begin(self, terms: Terms, kept: int) -> None:
        way = terms.way(kept, self._copy.can_receive_late)
        engine, warning = best_crc32c()
        if warning and terms.shape.dialect.seeds_crc and self._copy.terms is None:
            _log.warn("{warning}", event="checksum-slow", warning=warning)
        self._terms = self._copy.terms = terms
        if terms.shape.dialect.introduces:
            # First of all, so that the server hears by name of what goes wrong from here on.
            self._say_hello(terms, way, kept)
        if terms.greeting.digest not in KNOWN_DIGESTS:
            text = f"the image is proved by {terms.greeting.digest}, which is not known here"
            self.fail(Failed(text))
            return
        connection, shape = self._connection, terms.shape
        if self._config.any_source:
            shape = replace(shape, source=None)
        assert connection is not None
        connection.stream.capacity = shape.capacity
        self.route = Route(
            self._reactor,
            connection,
            shape,
            shape.dialect.codec(shape.salt, engine),
            self._copy.take_up(terms, kept),
            self._copy.tally,
            self._config.local_ip,
            self._open_port,
            self._guard,
        )
        self.route.ended.addCallback(self._kept).addErrback(self._guard.failed)
        self.route.begin(way)

    def _say_hello(self, terms: Terms, way: Way, kept: int) -> None:
        assert self._connection is not None
        is_in_step, can_fetch = way is Way.IN_STEP, terms.shape.can_fetch
        hello = Hello(
            self._config.name,
            terms.packets,
            coding=terms.greeting.coding,
            fetch=can_fetch,
            pull=not is_in_step,
            late_join=way is Way.LATE,
            room=0 if way is Way.FETCHING else terms.shape.window,
            kept=0 if is_in_step else -(-kept // terms.shape.capacity),
            run=self._run_id if can_fetch else "",
        )
        self._connection.send(hello.encode())

    def hand_on(self, message: Message) -> None:
        assert self.route is not None
        self._stream_hears = self.route.received
        self.route.received(message)

    def expect(self, digest: bytes | None) -> None:
        self._digest_due = digest

    def _kept(self, _: None) -> None:
        assert self._terms is not None
        self._machine.kept()
        if not self._terms.shape.dialect.proves:
            self._machine.digest(None)

    def prove(self) -> None:
        self._guard.run(self._prove())

    async def _prove(self) -> None:
        await self._copy.prove(self._digest_due)
        self._machine.proved()

    def end(self, ending: Ending) -> None:
        if self._is_over:
            return
        self._is_over = True
        try:
            self._close(ending)
        except Exception:
            # The run ends all the same, and what cannot be closed as it should be is cut off.
            self._guard.failed(Failure())
            if self._connection is not None:
                self._connection.abort()
        self._ended.callback(ending)

    def _close(self, ending: Ending) -> None:
        self._cancel_timer()
        if self._connecting is not None:
            self._connecting.cancel()
        if self.route is not None:
            self._copy.is_unreached |= self.route.is_unreached
            self._closing.append(self.route.stop())
            self.route = self._stream_hears = None
        if self._connection is not None and not self._connection.closed.called:
            self._say_last(self._connection, ending)

    def _say_last(self, connection: ServerConnection, ending: Ending) -> None:
        """Tell the server how it went, as far as it wants to know, and close the connection."""
        timer = self._guard.call_later(self._reactor, _LINGER_S, connection.abort)
        connection.closed.addCallback(lambda _: timer.cancel() if timer.active() else None)
        dialect = self._terms.shape.dialect if self._terms is not None else None
        proves = dialect is not None and dialect.proves
        if dialect is not None and proves and not isinstance(ending, Lost):
            reason = ending.reason if isinstance(ending, Failed) else None
            connection.send(Report(self._report(reason)).encode(dialect))
        elif dialect is not None and isinstance(ending, Got):
            connection.send(Done().encode(dialect))
        connection.close(waits=proves and isinstance(ending, Got))

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def not_found(config: ClientConfig, why: str, copy: LocalCopy) -> Failed:
    """No server has been found in time; ``why`` says what is there instead."""
    lost = "" if copy.output is None else "the connection was lost, and "
    where = f"{config.server_ip} port {config.port}"
    return Failed(
        f"{lost}no server at {where} within {config.connect_timeout_s:g} s: {why}", keep=True
    )
