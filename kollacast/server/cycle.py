"""The buffer cycle as an explicit machine: S_INIT to S_EXIT.

The machine follows the buffer that is multicast next.  Announcing runs ahead
of it as far as the window allows, and repairing and flushing come behind;
with a window of one buffer the whole is the original's stop-and-wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from automat import TypeMachineBuilder
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class Work(Protocol):
    """What the machine has done for it, state by state."""

    def accept(self) -> Deferred[None]:
        """S_ACCEPT: fires when all expected clients are in."""

    def prepare(self) -> Deferred[None]:
        """S_PREP: fires when the next buffer is filled and announced."""

    def synchronize(self) -> Deferred[None]:
        """S_SYNC: fires when every client has answered READY for it."""

    def send(self) -> Deferred[bool]:
        """S_SEND: fires when it is multicast and the clients are told.

        The result is False for the buffer that ends the stream.
        """

    def finish(self) -> None:
        """S_EXIT: nothing is left to multicast."""

    def fail(self, failure: Failure) -> None:
        """Some work has failed, and the session with it."""


class Cycle(Protocol):
    """The machine's inputs, in the order of their first use."""

    def start(self) -> None:
        """The ports are open."""

    def accepted(self) -> None:
        """All clients are in."""

    def prepared(self) -> None:
        """The next buffer is announced."""

    def synchronized(self) -> None:
        """Every client is ready for it."""

    def sent(self) -> None:
        """It is multicast, and more follows."""

    def sent_end(self) -> None:
        """It is the empty buffer that ends the stream."""

    def stop(self) -> None:
        """The session is over, for whatever reason."""


def _build() -> TypeMachineBuilder[Cycle, Work]:
    machine = TypeMachineBuilder(Cycle, Work)  # type: ignore[type-abstract]

    s_init = machine.state("S_INIT")
    s_accept = machine.state("S_ACCEPT")
    s_prep = machine.state("S_PREP")
    s_sync = machine.state("S_SYNC")
    s_send = machine.state("S_SEND")
    s_exit = machine.state("S_EXIT")

    def proceed(work: Work, done: Deferred[Any], then: Callable[[Any], None]) -> None:
        done.addCallback(then).addErrback(work.fail)

    @s_init.upon(Cycle.start).to(s_accept)
    def accept(cycle: Cycle, work: Work) -> None:
        proceed(work, work.accept(), lambda _: cycle.accepted())

    def prepare(cycle: Cycle, work: Work) -> None:
        proceed(work, work.prepare(), lambda _: cycle.prepared())

    s_accept.upon(Cycle.accepted).to(s_prep)(prepare)
    s_send.upon(Cycle.sent).to(s_prep)(prepare)

    @s_prep.upon(Cycle.prepared).to(s_sync)
    def synchronize(cycle: Cycle, work: Work) -> None:
        proceed(work, work.synchronize(), lambda _: cycle.synchronized())

    @s_sync.upon(Cycle.synchronized).to(s_send)
    def send(cycle: Cycle, work: Work) -> None:
        proceed(work, work.send(), lambda more: cycle.sent() if more else cycle.sent_end())

    @s_send.upon(Cycle.sent_end).to(s_exit)
    def finish(cycle: Cycle, work: Work) -> None:
        work.finish()

    for state in (s_init, s_accept, s_prep, s_sync, s_send, s_exit):
        state.upon(Cycle.stop).to(s_exit).returns(None)
    # Work that ends after the session has nothing left to tell.
    for late in (
        Cycle.accepted,
        Cycle.prepared,
        Cycle.synchronized,
        Cycle.sent,
        Cycle.sent_end,
    ):
        s_exit.upon(late).loop().returns(None)
    return machine


#: Makes a machine that drives the given :class:`Work`.
cycle = _build().build()
