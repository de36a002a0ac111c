"""Who takes part in a stream, from the first client to the last: the work of the cycle's states."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kollacast.events.guard import Guard
from kollacast.operator.config import ServerConfig
from kollacast.sending.history import History
from kollacast.sending.plan import Plan
from kollacast.sending.transfer import CannotSend, Transfer
from kollacast.server.admission import Situation
from kollacast.server.conversation import Departure
from kollacast.server.credentials import Credentials
from kollacast.server.crowd_log import CrowdLog
from kollacast.server.cycle import Stage, cycle, stage_of
from kollacast.server.gathering import Gathering
from kollacast.server.participant import Participant
from kollacast.server.roster import Roster
from kollacast.server.watch import Watch
from kollacast.wire.sealing import SealError

_log = Logger()


class Session:
    """The clients that ``config`` expects, and the stream that all of them get.

    ``make_transfer`` makes that of a plan, for so many clients.  ``end`` is told the
    reason, and whether clients are to look for the next server, at the one end.
    """

    def __init__(
        self,
        clock: IReactorTime,
        config: ServerConfig,
        offer: Plan,
        credentials: Credentials,
        history: History,
        make_transfer: Callable[[Plan, int, Guard], Transfer],
        end: Callable[[str | None, bool], None],
    ) -> None:
        self.clock = clock
        self.credentials = credentials
        self.history = history
        self.guard = Guard(self.fail)
        self.crowd = CrowdLog(clock, config.clients)
        self.roster = Roster(
            clock,
            config.clients,
            has_names=config.has_names,
            are_meant=config.secret is not None,
        )
        #: The stream, once it has begun.
        self.transfer: Transfer | None = None
        #: When it began.
        self.started_at: float | None = None
        self._config = config
        self._offer = offer
        self._make_transfer = make_transfer
        self.end = end
        self._cycle = cycle(self)
        self.gathering = Gathering(clock, config, self.roster, self.stop, self.guard)
        ready_wait_s = offer.dialect.ready_wait_s
        self._watch = Watch(
            clock, self.roster, config, ready_wait_s, lambda: self.lack is None, self.guard
        )
        self._return_timer: IDelayedCall | None = None

    # From the run.

    @property
    def stage(self) -> Stage:
        """How far it is."""
        return stage_of(self._cycle)

    def start(self) -> None:
        """Clients can come."""
        self.guard.wrap(self._cycle.start)()

    def interrupt(self, reason: str) -> None:
        """End now; before anything is sent, clients are told to look for the next server."""
        is_sent = self.transfer is not None and self.transfer.announced is not None
        self.stop(reason, later=not is_sent)

    def stop(self, reason: str | None, *, later: bool = False) -> None:
        """End for ``reason``, or because all is done; once it has ended, a no-op."""
        self._cycle.stop(reason, later)

    def stops(self) -> list[Callable[[], object]]:
        """What is left to be stopped once it has ended, each for itself."""
        stops: list[Callable[[], object]] = [self._watch.stop, self.gathering.stop]
        stops += [self._await_no_more, self.history.close, self.crowd.close]
        return stops if self.transfer is None else [self.transfer.stop, *stops]

    # What clients ask of their host.

    @property
    def plan(self) -> Plan:
        return self._offer if self.transfer is None else self.transfer.plan

    @property
    def lack(self) -> str | None:
        if not self._offer.dialect.fetches:
            return "in this dialect nobody can join later"
        return self.history.lack

    def situation(self, client: Participant | None = None) -> Situation:
        announced = None if self.transfer is None else self.transfer.announced
        return Situation(
            stage=self.stage,
            offer=self._offer,
            agreed=self.plan,
            is_end_announced=announced is not None and announced.is_end,
            config=self._config,
            lack=self.lack,
            has_room=client is None or self.roster.has_room(client),
            is_name_taken=client is not None and self.roster.is_name_taken(client),
            may_be_back=client is not None and self.roster.may_be_back(client),
        )

    def joined(self, client: Participant) -> None:
        self.roster.join(client)
        here, expected = len(self.roster), self._config.clients
        if self.crowd.may_say():
            _log.info(
                "client {name} is in: {here} of {expected}",
                event="client-in",
                name=client.name,
                host=client.record.name,
                here=here,
                expected=expected,
            )
        self.gathering.came()
        if client.member is not None and self.stage is not Stage.GATHERING:
            self.stream.join(client.member)

    def left(self, client: Participant, how: Departure) -> None:
        if self.transfer is not None:
            self.transfer.patience.leave(client.name)
        stage = self.stage
        if stage is Stage.GATHERING:
            if how is Departure.GAVE_UP:
                self.gathering.gave_up(client)
            else:
                self.roster.forget(client)
            return
        if client.is_unidentified and stage is not Stage.ENDED:
            self.roster.forget(client)
            if stage is Stage.SENDING and not self.roster.records:
                self._cycle.deserted()
                return
        else:
            may_be_back = how is Departure.LOST and self.lack is None
            if stage is Stage.PROVED:
                may_be_back = may_be_back and self.roster.gets_on(client)
            self.roster.leave(client, is_awaited=may_be_back)
        self.consider_end()

    # The machine's work, state by state.

    @property
    def stream(self) -> Transfer:
        assert self.transfer is not None
        return self.transfer

    def accept(self) -> Deferred[None]:
        return self.gathering.begin()

    def begin(self) -> Deferred[None]:
        self.started_at = self.clock.seconds()
        if self.transfer is not None:
            self.transfer.start_anew(self.roster.members)
        else:
            self.roster.begin()
            self._let_go_of_those_who_hold_too_little()
            members = self.roster.members
            plan = self.roster.agree(self._offer)
            self.transfer = self._make_transfer(plan, len(members), self.guard)
            self._watch.start(self.transfer)
            self.transfer.start(members)
        return self.transfer.prepare()

    def consider_end(self) -> None:
        """End once nobody is left who has not got the image, and nobody may come back."""
        self._await_no_more()
        stage = self.stage
        has_verified = any(record.verified for record in self.roster.records)
        if stage is Stage.ENDED or (has_verified and stage is not Stage.PROVED):
            return
        if not all(client.record.verified for client in self.roster.clients):
            return
        back_s = self.roster.awaited_s(self._config.patience_s)
        if back_s > 0:
            self._return_timer = self.guard.call_later(self.clock, back_s, self._wait_no_more)
            return
        is_well = has_verified and stage is Stage.PROVED
        self.stop(None if is_well else "no client is left")

    def fail(self, failure: Failure) -> None:
        """Some work has failed, and the run with it."""
        error = failure.value
        if isinstance(error, CannotSend | SealError):
            self.stop(str(error))
        else:
            _log.failure("an error of the program", failure=failure, event="program-error")
            self.stop(f"an error of the program: {error!r}")

    # Parts of it.

    def _let_go_of_those_who_hold_too_little(self) -> None:
        may_go = self.lack is None
        too_little = self.roster.holding_too_little(self._offer, may_go=may_go)
        for client, reason in too_little.items():
            if may_go:
                client.let_go(reason)
            else:
                client.drop(f"{reason}, and {self.lack}")

    def _await_no_more(self) -> None:
        if self._return_timer is not None and self._return_timer.active():
            self._return_timer.cancel()

    def _wait_no_more(self) -> None:
        self.roster.await_no_more()
        self.consider_end()
