"""The buffer cycle as an explicit machine, S_INIT to S_EXIT, and what it ends in.

The machine follows the buffer that is multicast next.  Announcing runs ahead
of it as far as the window allows, and repairing and flushing come behind;
with a window of one buffer the whole is the original's stop-and-wait.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Protocol

from automat import TypeMachineBuilder
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from kollacast.events.state import state_of
from kollacast.sending.transfer import Transfer


class Stage(enum.Enum):
    """How far a session is."""

    STARTING = enum.auto()
    GATHERING = enum.auto()  #: clients come
    SENDING = enum.auto()  #: buffers leave
    PROVING = enum.auto()  #: all has left, and clients report
    PROVED = enum.auto()  #: those who took part have reported; others may still fetch, or come back
    ENDED = enum.auto()


class Work(Protocol):
    """What the machine has done for it, state by state; a Deferred fires once it is done."""

    def accept(self) -> Deferred[None]: ...  # S_ACCEPT: all expected clients are in
    def begin(self) -> Deferred[None]: ...  # S_PREP, first: a buffer is announced to who is in
    @property
    def stream(self) -> Transfer: ...  # what leaves buffer by buffer, once it has begun
    def consider_end(self) -> None: ...  # S_PROVED: end, unless somebody may come back
    def end(self, reason: str | None, later: bool) -> None: ...  # S_ENDED: close all
    def fail(self, failure: Failure) -> None: ...  # some work has failed, and the session with it


class Cycle(Protocol):
    """The machine's inputs, in the order of their first use."""

    def start(self) -> None: ...  # the ports are open
    def accepted(self) -> None: ...
    def prepared(self) -> None: ...
    def deserted(self) -> None: ...  # nobody came but who is no client: the clients still may
    def synchronized(self) -> None: ...
    def sent(self) -> None: ...
    def sent_end(self) -> None: ...
    def proved(self) -> None: ...

    def stop(self, reason: str | None, later: bool) -> None:
        """The session is over, for ``reason`` unless all is done.

        With ``later``, clients are to look for the next server.
        """


def _build() -> TypeMachineBuilder[Cycle, Work]:
    machine = TypeMachineBuilder(Cycle, Work)  # type: ignore[type-abstract]

    s_init = machine.state("S_INIT")
    s_accept = machine.state("S_ACCEPT")
    s_prep = machine.state("S_PREP")
    s_sync = machine.state("S_SYNC")
    s_send = machine.state("S_SEND")
    s_exit = machine.state("S_EXIT")
    s_proved = machine.state("S_PROVED")
    s_ended = machine.state("S_ENDED")

    def proceed(work: Work, done: Deferred[Any], then: Callable[[Any], None]) -> None:
        done.addCallback(then).addErrback(work.fail)

    def accept(cycle: Cycle, work: Work) -> None:
        proceed(work, work.accept(), lambda _: cycle.accepted())

    def begin(cycle: Cycle, work: Work) -> None:
        proceed(work, work.begin(), lambda _: cycle.prepared())

    def prepare(cycle: Cycle, work: Work) -> None:
        proceed(work, work.stream.prepare(), lambda _: cycle.prepared())

    def synchronize(cycle: Cycle, work: Work) -> None:
        proceed(work, work.stream.synchronize(), lambda _: cycle.synchronized())

    def send(cycle: Cycle, work: Work) -> None:
        proceed(work, work.stream.send(), lambda more: cycle.sent() if more else cycle.sent_end())

    def prove(cycle: Cycle, work: Work) -> None:
        proceed(work, work.stream.prove(), lambda _: cycle.proved())

    def consider_end(cycle: Cycle, work: Work) -> None:
        work.consider_end()

    def end(cycle: Cycle, work: Work, reason: str | None, later: bool) -> None:
        work.end(reason, later)

    s_init.upon(Cycle.start).to(s_accept)(accept)
    s_prep.upon(Cycle.deserted).to(s_accept)(accept)
    s_sync.upon(Cycle.deserted).to(s_accept)(accept)
    s_accept.upon(Cycle.accepted).to(s_prep)(begin)
    s_prep.upon(Cycle.prepared).to(s_sync)(synchronize)
    s_sync.upon(Cycle.synchronized).to(s_send)(send)
    s_send.upon(Cycle.sent).to(s_prep)(prepare)
    s_send.upon(Cycle.sent_end).to(s_exit)(prove)
    s_exit.upon(Cycle.proved).to(s_proved)(consider_end)
    for state in (s_init, s_accept, s_prep, s_sync, s_send, s_exit, s_proved):
        state.upon(Cycle.stop).to(s_ended)(end)
    # What was begun for those who have gone ends with them.
    for late in (Cycle.prepared, Cycle.synchronized):
        s_accept.upon(late).loop().returns(None)
    for state in (s_accept, s_ended):
        state.upon(Cycle.deserted).loop().returns(None)
    # Work that ends after the session has nothing left to tell.
    begun = (Cycle.accepted, Cycle.prepared, Cycle.synchronized)
    for late in (*begun, Cycle.sent, Cycle.sent_end, Cycle.proved):
        s_ended.upon(late).loop().returns(None)
    s_ended.upon(Cycle.stop).loop().returns(None)
    return machine


_STAGES = {
    "S_INIT": Stage.STARTING,
    "S_ACCEPT": Stage.GATHERING,
    "S_PREP": Stage.SENDING,
    "S_SYNC": Stage.SENDING,
    "S_SEND": Stage.SENDING,
    "S_EXIT": Stage.PROVING,
    "S_PROVED": Stage.PROVED,
    "S_ENDED": Stage.ENDED,
}


def stage_of(machine: Cycle) -> Stage:
    """How far the session of ``machine`` is."""
    return _STAGES[state_of(machine)]


#: Makes a machine that drives the given :class:`Work`.
cycle = _build().build()
