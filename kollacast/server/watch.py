"""Looks for clients that have fallen silent, and for those that take too much of others' time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from kollacast.events.guard import Guard
from kollacast.operator.config import ServerConfig
from kollacast.sending.transfer import Transfer
from kollacast.server.participant import Participant
from kollacast.server.roster import Roster

#: A client syncs several GB to its disk before its last answer: so much longer it may take.
_SYNC_FACTOR = 10.0
#: Of the time for which clients wait behind their READY: so much the others get for theirs.
_READY_SHARE = 0.8
#: Seconds between looks at all of them, at the most.
_WATCH_S = 1.0
#: Seconds between looks at those who are waited for, which cost little while nobody is.
_WAIT_S = 0.025


class Watch:
    """Drops who has been silent for too long, and takes out of step who is late.

    Nobody is taken out while ``can_fetch()`` is false.  Who has answered READY gives up
    after ``ready_wait_s``, so the others have to answer before.
    """

    def __init__(
        self,
        clock: IReactorTime,
        roster: Roster,
        config: ServerConfig,
        ready_wait_s: float,
        can_fetch: Callable[[], bool],
        guard: Guard,
    ) -> None:
        self._roster = roster
        self._timeout_s = config.client_timeout_s
        self._patience_s = config.patience_s
        self._ready_s = _READY_SHARE * ready_wait_s
        self._can_fetch = can_fetch
        self._transfer: Transfer | None = None
        self._looks = [LoopingCall(guard.wrap(look)) for look in (self._look, self._look_closely)]
        for look in self._looks:
            look.clock = clock

    def start(self, transfer: Transfer) -> None:
        """The clients are those of ``transfer`` from now on."""
        self._transfer = transfer
        # Late by what is left of the wait would be too late.
        widely_s = min(_WATCH_S, self._patience_s / 4, self._ready_s / 16)
        for look, interval_s in zip(self._looks, (widely_s, _WAIT_S), strict=True):
            look.start(interval_s, now=False)

    def stop(self) -> None:
        """No-op when it has not started."""
        for look in self._looks:
            if look.running:
                look.stop()

    def _look(self) -> None:
        # Of a thousand clients, hardly one is worth a second look.
        least = min(self._timeout_s, self._patience_s, self._ready_s)
        quiet = [client for client in self._roster.clients if client.quiet_s() > least]
        for client in quiet:
            timeout = self._timeout_s * (_SYNC_FACTOR if client.is_finishing else 1.0)
            if client.silent_s() > timeout:
                client.drop(f"no {client.owes} for {timeout:g} s")
            elif client.member is not None and client.member.ready_owed_s() > self._ready_s:
                client.drop(f"no READY for {self._ready_s:g} s, and jasmine clients wait no longer")
        if self._can_fetch():
            self._take_out_slow(quiet)

    def _take_out_slow(self, quiet: Sequence[Participant]) -> None:
        """Let the others go on without those for whom they have waited long enough."""
        patience = self._patience_s
        late = [c for c in quiet if c.member and c.member.owed_s() > patience]
        if not late:
            return
        # Who fetches needs what the members go on to.
        waiting = [c for c in self._roster.clients if c.fetching and c.fetching.waits_for_image]
        others = len(self._roster.members) - len(late) + len(waiting)
        if not others:
            # It is nobody whom these hold up: maybe the network is slow, or the server.
            return
        for client in late:
            # While most are late, a client is slow only if nothing moves at all.
            if len(late) <= others or client.silent_s() > patience:
                client.let_go(f"no {client.owes} for {patience:g} s")

    def _look_closely(self) -> None:
        """Let the others go on without who has taken too much of their time."""
        if self._transfer is None or not self._can_fetch():
            return
        verdicts = self._transfer.verdicts()
        if verdicts:
            for client in list(self._roster.clients):
                if client.member is not None and client.name in verdicts:
                    client.let_go(verdicts[client.name])
