"""One run of the client: attempts to get the image, until one has brought it or none will."""

from __future__ import annotations

import secrets
from contextlib import suppress

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.client.account import Account
from kollacast.client.attempt import Attempt, not_found
from kollacast.client.connecting import securing
from kollacast.client.endings import Ending, Failed, Lost, failed_by
from kollacast.client.local_copy import LocalCopy
from kollacast.client.retry import Retry
from kollacast.events.guard import Guard
from kollacast.events.observer import Observer
from kollacast.events.reactor import IReactor
from kollacast.files.sink import Sink
from kollacast.operator.config import ClientConfig
from kollacast.operator.outcome import Outcome, Progress
from kollacast.receiving.route import OpenReceiver
from kollacast.transport.receiver import open_receiver
from kollacast.transport.worker import MakeWorker, ThreadWorker

_log = Logger()


class Client:
    """Brings the image from the server that ``config`` names to ``sink``.

    ``reactor`` is also the clock.  ``make_worker`` and ``open_port`` take the
    place of threads and of the multicast port in tests.
    """

    def __init__(
        self,
        reactor: IReactor,
        config: ClientConfig,
        sink: Sink,
        *,
        make_worker: MakeWorker = ThreadWorker,
        open_port: OpenReceiver = open_receiver,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._open_port = open_port
        self._guard = Guard(self._failed_by)
        self._copy = LocalCopy(
            sink,
            config.expectation,
            make_worker(reactor, "disk"),
            make_worker(reactor, "digest"),
            self._failed_by,
            reactor.seconds,
        )
        self._secure = securing(reactor, config)
        self._run_id = secrets.token_hex(8)
        self._began_at = 0.0
        self._attempt: Attempt | None = None
        #: What is waited for between two attempts.
        self._pause: Deferred[None] | None = None
        self._failed: Failed | None = None
        self._is_ending = False
        self._is_over = False
        self._over: Observer[None] = Observer()

    @property
    def session(self) -> str | None:
        """The server's name for the session that this host takes part in, once it is in one."""
        terms = self._copy.terms
        return terms.greeting.session or None if terms is not None else None

    def run(self) -> Deferred[Outcome]:
        """Fires with the outcome, whatever happens."""
        self._began_at = self._reactor.seconds()
        if not self._config.is_secure:
            is_expected = bool(self._config.expectation.digests)
            _log.warn(
                "nobody is proved without --tls-dir or --token-file: whoever answers at {server}"
                " can {what}",
                event="unproved",
                server=self._config.server_ip,
                what=(
                    "keep this host from its image, though not give it another than --expect says"
                    if is_expected
                    else "give this host an image of its own"
                ),
            )
        return Deferred.fromCoroutine(self._run()).addBoth(self._end)

    def interrupt(self, reason: str) -> Deferred[None]:
        """End the run now; fires once everything is closed."""
        self._fail(Failed(reason, keep=True, is_own_fault=True))
        return succeed(None) if self._is_over else self._over.wait()

    def account(self) -> Account:
        """The run as it stands."""
        route = self._attempt.route if self._attempt is not None else None
        phase = route.phase if route is not None else "connecting"
        seconds = self._reactor.seconds() - self._began_at
        return Account(self._copy, self._config, "ending" if self._is_ending else phase, seconds)

    def progress(self, most_hosts: int = 0) -> Progress:
        """How far the run is."""
        return self.account().progress()

    async def _run(self) -> Outcome:
        retry = Retry.begin(self._config.connect_timeout_s, self._reactor.seconds())
        while True:
            attempt = self._attempt = Attempt(
                self._reactor,
                self._config,
                self._copy,
                self._guard,
                run_id=self._run_id,
                secure=self._secure,
                open_port=self._open_port,
                report=lambda reason: self.account().report(reason),
            )
            ending = await attempt.run(retry.deadline)
            if isinstance(ending, Lost):
                self._tell(ending, retry)
                await attempt.closed()
                found = await self._try_again(ending, retry)
                if isinstance(found, Retry):
                    retry = found
                    continue
                ending = found
            return await self._finish(attempt, ending)

    def _tell(self, lost: Lost, retry: Retry) -> None:
        """Say why the image does not come for now, once for each reason."""
        was_refused = retry.refused is not None and not lost.has_begun
        if lost.ended is not None:
            _log.warn(
                "the server gave up before it began: {reason}; looking for the next one for"
                " {seconds:g} s",
                event="server-gave-up",
                reason=lost.ended,
                seconds=self._config.connect_timeout_s,
            )
        elif was_refused:
            return
        elif lost.refused is not None:
            _log.warn(
                "the server refuses this client for now: {reason}",
                event="refused-for-now",
                reason=lost.refused,
            )
        elif self._copy.output is not None:
            _log.warn(
                "the connection to the server is lost: trying to come back",
                event="connection-lost",
            )

    async def _try_again(self, lost: Lost, retry: Retry) -> Retry | Failed:
        """Wait until it is time for the next attempt, if there is to be one."""
        copy, clock = self._copy, self._reactor
        await self._wait(copy.settled())
        kept = copy.bytes_kept if copy.output is not None else None
        retry = retry.after(lost, kept, clock.seconds())
        delay_s = retry.delay_s(clock.seconds())
        if delay_s is not None:
            await self._wait(deferLater(clock, delay_s))
        if self._failed is not None:
            return self._failed
        if delay_s is not None:
            return retry
        if retry.refused is not None:
            return Failed(f"the server refuses this client: {retry.refused}", keep=True)
        return not_found(self._config, "what answers there closes the connection", copy)

    async def _wait(self, pause: Deferred[None]) -> None:
        """Wait for ``pause``, or until the run has failed."""
        if self._failed is not None:
            return
        self._pause = pause
        with suppress(CancelledError):
            await pause
        self._pause = None

    # The end.

    async def _finish(self, attempt: Attempt, ending: Ending) -> Outcome:
        self._is_ending = True
        failed = ending if isinstance(ending, Failed) else None
        committed = self._copy.close(failed)
        await attempt.closed()
        await committed
        return self.account().outcome(failed)

    def _end(self, outcome: Outcome | Failure) -> Outcome:
        """The run is over, even where its own end has failed."""
        if isinstance(outcome, Failure):
            failed = failed_by(outcome.value)
            _log.failure("an error of the program", failure=outcome, event="program-error")
            outcome = self.account().outcome(failed)
        self._is_ending = self._is_over = True
        self._over.fire(None)
        return outcome

    def _failed_by(self, failure: Failure) -> None:
        """Something has raised an exception, wherever that was."""
        failed = failed_by(failure.value)
        if failed.is_program_error:
            _log.failure("an error of the program", failure=failure, event="program-error")
        self._fail(failed)

    def _fail(self, failed: Failed) -> None:
        if self._failed is not None or self._is_ending:
            return
        self._failed = failed
        if self._attempt is not None:
            self._attempt.fail(failed)
        if self._pause is not None:
            self._pause.cancel()
