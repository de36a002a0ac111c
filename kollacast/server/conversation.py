"""The conversation with one client as a table, without I/O: what it may say when, and what follows.

A connection says who it is; from then on it takes part in step, joins late, or fetches; in the end
it is heard out, or closed for a reason.  A second, smaller table follows the proof: whether the
client's report is due.  It goes on beside the first, in step as well as not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol

from automat import TypeMachineBuilder

from kollacast.events.state import state_of
from kollacast.wire.greeting import Hello
from kollacast.wire.messages import Ask, Credit, Detach, Done, Fetch, Ready, Report, Request
from kollacast.wire.pieces import Want
from kollacast.wire.structures import WireError

_P = ParamSpec("_P")
#: What only those say that are in the barrier.
Answer = Ready | Request | Done | Credit | Ask | Want | Detach


class Departure(enum.Enum):
    """How a client goes."""

    LOST = enum.auto()  #: its connection is over, and it may come back on another
    GAVE_UP = enum.auto()  #: it has said that it gives up
    PUT_OUT = enum.auto()  #: it is not worth waiting for


class Acts(Protocol):
    """What the two tables have done for them."""

    def introduced(self, hello: Hello) -> None: ...  # check who it is: let it in, or refuse it
    def join_in_step(self) -> None: ...  # it takes part from the first buffer on
    def join_late(self, reason: str) -> None: ...  # from the next on; it fetches what was before
    def join_fetching(self, reason: str) -> None: ...  # it fetches all
    def join_out_of_step(self, reason: str) -> None: ...  # it fetches all, and has to be told
    def leave_step(self, reason: str) -> None: ...  # it fetches the rest, and has to be told
    def fetches(self, fetch: Fetch) -> None: ...  # no more than was before, where it joins late
    def reported(self, report: Report) -> None: ...  # it has given an account of itself
    def turn_away(self, reason: str, how: Departure) -> None: ...  # it is no client
    def refuse(self, reason: str, later: bool) -> None: ...  # it may try again, with ``later``
    def put_out(self, reason: str, how: Departure) -> None: ...  # it was in, and is told why not
    def ended(self, reason: str | None, later: bool) -> None: ...  # for it, or for all
    def broken(self, reason: str) -> None: ...  # the connection of one that was in has ended
    def leave(self) -> None: ...  # it counts no more
    def ask_digest(self) -> None: ...  # :meth:`Proving.digest` follows, once all is read
    def send_digest(self, digest: bytes) -> None: ...


class Conversation(Protocol):
    """The inputs, in the order of their first use."""

    def hello(self, hello: Hello) -> None: ...
    def refuse(self, reason: str, later: bool) -> None: ...  # it may not come in
    def admit_in_step(self) -> None: ...
    def admit_late(self, reason: str) -> None: ...  # in step from the next buffer on
    def admit_fetching(self, reason: str) -> None: ...  # it knows that it has to fetch
    def admit_out_of_step(self, reason: str) -> None: ...  # it expects to be in step
    def answer(self, answer: Answer) -> None: ...  # without a place in the barrier
    def take_out(self, reason: str) -> None: ...  # the others do not wait for it any more
    def fetch(self, fetch: Fetch) -> None: ...
    def report(self, report: Report) -> None: ...
    def drop(self, reason: str, how: Departure) -> None: ...  # it is out
    def end(self, reason: str | None, later: bool) -> None: ...  # all is said, or over for a reason
    def lose(self, reason: str) -> None: ...  # the connection has ended by itself


def _do(act: Callable[Concatenate[Acts, _P], None]) -> Callable[Concatenate[Any, Acts, _P], None]:
    """What has this act done, with what came in."""
    name = act.__name__

    def output(talk: object, acts: Acts, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        getattr(acts, name)(*args, **kwargs)

    output.__name__ = name
    return output


def _ignore(word: Callable[..., None], *states: Any) -> None:
    """In these it changes nothing."""
    for state in states:
        state.upon(word).loop().returns(None)


def _build() -> TypeMachineBuilder[Conversation, Acts]:
    machine = TypeMachineBuilder(Conversation, Acts)  # type: ignore[type-abstract]

    unidentified = machine.state("unidentified")
    introduced = machine.state("introduced")
    in_step = machine.state("in step")
    late = machine.state("joining late")
    # Of one that was in step, or takes itself to be, what it says of that means nothing any more.
    out_of_step = machine.state("out of step")
    fetching = machine.state("fetching")
    # All is said, and it counts until its connection ends.
    leaving = machine.state("leaving")
    # It is out, and told why.
    closing = machine.state("closing")

    def refuse_answer(talk: Conversation, acts: Acts, answer: Answer) -> None:
        raise WireError("a message that only a client in the barrier may send")

    def refuse_fetch(talk: Conversation, acts: Acts, fetch: Fetch) -> None:
        raise WireError("a fetch by a client in the barrier")

    def turn_away(talk: Conversation, acts: Acts, reason: str) -> None:
        acts.turn_away(reason, Departure.LOST)

    def leave(talk: Conversation, acts: Acts, reason: str) -> None:
        acts.leave()

    # Who it is.  In a dialect that has no hello, that is known at once.
    unidentified.upon(Conversation.hello).to(introduced)(_do(Acts.introduced))
    for state in (unidentified, introduced):
        state.upon(Conversation.refuse).to(closing)(_do(Acts.refuse))
        state.upon(Conversation.admit_in_step).to(in_step)(_do(Acts.join_in_step))
    introduced.upon(Conversation.admit_late).to(late)(_do(Acts.join_late))
    introduced.upon(Conversation.admit_fetching).to(fetching)(_do(Acts.join_fetching))
    introduced.upon(Conversation.admit_out_of_step).to(out_of_step)(_do(Acts.join_out_of_step))

    # What it says while it is in.  Its answers in step are its member's to judge: they are many.
    for state in (in_step, late):
        state.upon(Conversation.take_out).to(out_of_step)(_do(Acts.leave_step))
    fetching.upon(Conversation.answer).loop()(refuse_answer)
    in_step.upon(Conversation.fetch).loop()(refuse_fetch)
    for state in (late, out_of_step, fetching):
        state.upon(Conversation.fetch).loop()(_do(Acts.fetches))

    # How it ends.
    for state in (unidentified, introduced):
        state.upon(Conversation.drop).to(closing)(_do(Acts.turn_away))
        state.upon(Conversation.end).to(closing)(_do(Acts.ended))
        state.upon(Conversation.lose).to(closing)(turn_away)
    for state in (in_step, late, out_of_step, fetching):
        state.upon(Conversation.report).loop()(_do(Acts.reported))
        state.upon(Conversation.drop).to(closing)(_do(Acts.put_out))
        state.upon(Conversation.end).to(leaving)(_do(Acts.ended))
        state.upon(Conversation.lose).to(closing)(_do(Acts.broken))
    leaving.upon(Conversation.lose).to(closing)(leave)

    # What comes behind that changes nothing.
    _ignore(Conversation.lose, closing)
    _ignore(Conversation.answer, out_of_step)
    _ignore(Conversation.take_out, out_of_step, fetching, leaving, closing)
    _ignore(Conversation.drop, leaving, closing)
    _ignore(Conversation.end, leaving, closing)
    return machine


class Proving(Protocol):
    """The inputs, in the order of their first use."""

    def sent_all(self) -> None: ...  # in step, it has been told that the empty buffer is sent
    def kept_all(self) -> None: ...  # in step, it has kept all
    def told_end(self) -> None: ...  # it has fetched all, and knows it
    def digest(self, digest: bytes) -> None: ...  # it is known
    def leave_step(self) -> None: ...
    def report(self) -> None: ...  # it says that it has the image


def _build_proving() -> TypeMachineBuilder[Proving, Acts]:
    machine = TypeMachineBuilder(Proving, Acts)  # type: ignore[type-abstract]

    begun = machine.state("begun")
    end_known = machine.state("end known")
    told = machine.state("digest told")
    # The last DONE of who leaves then is ignored; it may still lack something, or nothing.
    told_out_of_step = machine.state("digest told, out of step")
    kept = machine.state("all kept")
    due = machine.state("report due")
    proved = machine.state("proved")

    def refuse_report(proving: Proving, acts: Acts) -> None:
        raise WireError("a report that is not due")

    ask, tell = _do(Acts.ask_digest), _do(Acts.send_digest)
    # In step a client is told before it has all, so that it need not ask for more.
    begun.upon(Proving.sent_all).to(end_known)(ask)
    begun.upon(Proving.told_end).to(kept)(ask)
    end_known.upon(Proving.digest).to(told)(tell)
    end_known.upon(Proving.kept_all).to(kept).returns(None)
    # It is told again that the image ends, once it has fetched the rest.
    end_known.upon(Proving.leave_step).to(begun).returns(None)
    told.upon(Proving.kept_all).to(due).returns(None)
    told.upon(Proving.leave_step).to(told_out_of_step).returns(None)
    told_out_of_step.upon(Proving.told_end).to(due).returns(None)
    kept.upon(Proving.digest).to(due)(tell)
    for state in (told_out_of_step, due):
        state.upon(Proving.report).to(proved).returns(None)

    for state in (begun, end_known, told, kept, proved):
        state.upon(Proving.report).loop()(refuse_report)
    _ignore(Proving.leave_step, begun, kept, due, proved, told_out_of_step)
    _ignore(Proving.digest, begun, told, told_out_of_step, due, proved)
    _ignore(Proving.told_end, kept, due, proved)
    return machine


def is_report_due(machine: Proving) -> bool:
    """Whether a report is all that a client owes."""
    return state_of(machine) == "report due"


#: Each makes a machine that drives the given :class:`Acts`.
conversation = _build().build()
proving = _build_proving().build()
