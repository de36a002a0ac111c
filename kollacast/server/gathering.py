"""Waits for the clients that are expected, until those who came have to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kollacast.events.guard import Guard
from kollacast.operator.config import ServerConfig
from kollacast.server.participant import Participant
from kollacast.server.roster import Roster

_log = Logger()

#: Seconds after which the operator is told who is here and what can be done, and then again.
_REMIND_S = (30.0, 300.0)
#: So many clients are named.
_MOST_NAMES = 16


@dataclass(eq=False)
class Gathering:
    """The wait for all clients; ``_give_up`` takes the reason when too few have come."""

    _clock: IReactorTime
    _config: ServerConfig
    _roster: Roster
    _give_up: Callable[[str], None]
    _guard: Guard
    _gathered: Deferred[None] | None = field(default=None, init=False)  # while it waits
    _until: float | None = field(default=None, init=False)
    _timers: dict[str, IDelayedCall] = field(default_factory=dict, init=False)

    def begin(self) -> Deferred[None]:
        """Fires when the session is to start.

        Where it begins anew, for nobody who came was a client, the time goes on.
        """
        self._gathered = Deferred()
        if self._config.accept_timeout_s:
            now = self._clock.seconds()
            if self._until is None:
                self._until = now + self._config.accept_timeout_s
            self._set("timeout", max(self._until - now, 0.0), self._time_is_over)
        self._set("reminder", _REMIND_S[0], self._remind)
        return self._gathered

    def came(self) -> None:
        """One more is in: start if that is all."""
        if self._is_all_here and self._gathered is not None:
            # The client must be in its group before anything begins.
            self._set("start", 0, self._start_if_complete)

    def gave_up(self, client: Participant) -> None:
        """One that was in has gone for good: for a while it may be started again."""
        self._roster.forget(client)
        self._roster.given_up.append(client.record)
        wait_s = self._config.client_timeout_s
        _log.warn(
            "waiting {wait_s:g} s for client {name} to be started again",
            event="client-gave-up",
            wait_s=wait_s,
            name=client.name,
            host=client.record.name,
        )
        self._set("given up", wait_s, self._start_without_who_gave_up)

    def start_now(self) -> None:
        """Start with those who came, however few; where there is nobody, a line says so."""
        if self._gathered is None:
            _log.warn("asked to start now: the session has started already", event="start-late")
        elif not len(self._roster):
            _log.warn(
                "asked to start now: no client has come yet, still waiting", event="start-early"
            )
        else:
            self._start_without_the_rest()

    def stop(self) -> None:
        """Wait no more."""
        self._gathered = None
        timers, self._timers = self._timers, {}
        for timer in timers.values():
            if timer.active():
                timer.cancel()

    def _set(self, name: str, delay_s: float, call: Callable[[], None]) -> None:
        if self._is_set(name):
            self._timers[name].cancel()
        self._timers[name] = self._guard.call_later(self._clock, delay_s, call)

    @property
    def _is_all_here(self) -> bool:
        """Whether nobody is waited for any more."""
        here, expected = len(self._roster), self._config.clients
        is_rest_here = here > 0 and here + len(self._roster.given_up) >= expected
        return here == expected or (is_rest_here and not self._is_set("given up"))

    def _is_set(self, name: str) -> bool:
        timer = self._timers.get(name)
        return timer is not None and timer.active()

    def _start_if_complete(self) -> None:
        if self._is_all_here:
            self._start()

    def _start_without_who_gave_up(self) -> None:
        """Nobody has come in their place: the others begin."""
        if len(self._roster):
            self._start_if_complete()
        elif len(self._roster.given_up) >= self._config.clients:
            self._roster.begin()
            self._give_up("no client is left")

    def _time_is_over(self) -> None:
        least = self._config.min_clients
        if least is not None and len(self._roster) >= least:
            self._start_without_the_rest()
            return
        here, expected = len(self._roster), self._config.clients
        came = f"{here} of {expected} clients came within {self._config.accept_timeout_s:g} s"
        self._give_up(f"{came}: {self._roster.names(_MOST_NAMES)}" if here else came)

    def _start_without_the_rest(self) -> None:
        here, expected = len(self._roster), self._config.clients
        _log.warn(
            "starting with {here} of {expected} clients",
            event="start-incomplete",
            here=here,
            expected=expected,
        )
        self._start()

    def _start(self) -> None:
        gathered = self._gathered
        self.stop()
        if gathered is not None:
            gathered.callback(None)

    def _remind(self) -> None:
        here, expected, pid = len(self._roster), self._config.clients, os.getpid()
        if here:
            _log.info(
                "waiting for clients: {missing} of {expected} are missing; here: {names}. To start"
                " now without the rest: kill -USR2 {pid}",
                event="waiting",
                missing=expected - here,
                expected=expected,
                names=self._roster.names(_MOST_NAMES),
                pid=pid,
            )
        else:
            _log.info(
                "waiting for clients: none of {expected} has come yet. Once one has, kill -USR2"
                " {pid} starts without the rest",
                event="waiting",
                expected=expected,
                pid=pid,
            )
        self._set("reminder", _REMIND_S[1], self._remind)
