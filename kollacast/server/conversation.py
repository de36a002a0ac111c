"""The conversation with one client as a table, without I/O: what it may say when, and what follows.

A connection is greeted and says who it is; from then on it takes part in step, joins late, or
fetches; in the end it is heard out, or closed for a reason.  A second, smaller table follows the
proof: whether the client's report is due.  It goes on beside the first, in step as well as not.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from automat import TypeMachineBuilder

from kollacast.events.state import state_of
from kollacast.wire.greeting import Hello
from kollacast.wire.messages import Done, Fetch, Ready, Report, Request
from kollacast.wire.structures import WireError

_A = TypeVar("_A")
_P = ParamSpec("_P")
Answer = Ready | Request | Done


class Place(enum.Enum):
    """Where a connection stands."""

    UNIDENTIFIED = "unidentified"  #: it has not said who it is
    IN_STEP = "in step"
    LATE = "joining late"  #: in step, and fetching what was before
    FETCHING = "fetching"
    LEAVING = "leaving"  #: all is said, and it counts until its connection ends
    CLOSING = "closing"  #: it is out, and told why


class Departure(enum.Enum):
    """How a client that was in goes."""

    LOST = enum.auto()  #: its connection broke, and it may come back on another
    GAVE_UP = enum.auto()  #: it has said that it gives up
    PUT_OUT = enum.auto()  #: it is not worth waiting for


class Acts(Protocol):
    """What the table has done for it."""

    def introduced(self, hello: Hello) -> None:
        """It has said who it is: check it and let it in, or refuse it."""

    def join_in_step(self) -> None:
        """It takes part from the first buffer on."""

    def join_late(self, reason: str) -> None:
        """It takes part from the next buffer on, and fetches what was before."""

    def join_fetching(self, reason: str) -> None:
        """It fetches all."""

    def join_out_of_step(self, reason: str) -> None:
        """It fetches all, and has to be told."""

    def leave_step(self, reason: str) -> None:
        """Take it out of step: it fetches the rest."""

    def answered(self, answer: Answer) -> None:
        """It has answered a phase of the barrier."""

    def hears_nothing(self) -> None:
        """It asks to be taken out of step."""

    def fetches(self, fetch: Fetch) -> None:
        """It asks for packets."""

    def fetches_what_was_before(self, fetch: Fetch) -> None:
        """The same, while it gets others in step."""

    def reported(self, report: Report) -> None:
        """It has given an account of itself."""

    def turn_away(self, reason: str, how: Departure) -> None:
        """It is no client, and is told why."""

    def close_unheard(self, reason: str) -> None:
        """It is no client; it is told nothing, so that one which means well comes again."""

    def refuse_at_once(self, reason: str, later: bool) -> None:
        """It may not come in, whoever it is."""

    def refuse(self, reason: str, later: bool) -> None:
        """It may not come in; with ``later``, it may try again."""

    def put_out(self, reason: str, how: Departure) -> None:
        """It was in and is out, and is told why."""

    def ended(self, reason: str | None, later: bool) -> None:
        """The session is over, for ``reason`` unless it has ended well."""

    def close(self) -> None:
        """All is said."""

    def broken(self) -> None:
        """The connection of one that was in has ended by itself."""

    def leave(self) -> None:
        """It counts no more."""


class Conversation(Protocol):
    """The inputs, in the order of their first use."""

    def greet(self) -> None:
        """It has been told what there is, and asked who it is."""

    def heard(self) -> None:
        """Something has come."""

    def hello(self, hello: Hello) -> None:
        """It says who it is."""

    def refuse(self, reason: str, later: bool) -> None:
        """It may not come in."""

    def admit_in_step(self) -> None:
        """It is in, in step."""

    def admit_late(self, reason: str) -> None:
        """It is in, in step from the next buffer on."""

    def admit_fetching(self, reason: str) -> None:
        """It is in, and knows that it has to fetch."""

    def admit_out_of_step(self, reason: str) -> None:
        """It is in, expects to be in step, and has to fetch."""

    def answer(self, answer: Answer) -> None:
        """It answers a phase of the barrier."""

    def ask_out(self) -> None:
        """It hears no multicast."""

    def take_out(self, reason: str) -> None:
        """The others do not wait for it any more."""

    def fetch(self, fetch: Fetch) -> None:
        """It asks for packets by TCP."""

    def report(self, report: Report) -> None:
        """It gives an account of itself."""

    def hear_out(self) -> None:
        """Its account was good."""

    def time_out(self, reason: str) -> None:
        """It has to go without having said who it is."""

    def drop(self, reason: str, how: Departure) -> None:
        """It is out."""

    def end(self, reason: str | None, later: bool) -> None:
        """The session is over."""

    def lose(self) -> None:
        """The connection has ended."""


#: What a C client makes of a greeting, of which it reads the first 16 bytes; ours does so with one
#: that asks for what it has not.
_LIKE_JASMINE = (
    "it closed the connection at the greeting, without a word, as the C client jasminec does,"
    " which needs a server with --dialect jasmine, or as a kollacast client that lacks"
    " --token-file or the digest of this run: it says so itself"
)
#: What is said of a connection that has ended by itself.
LOST = "the connection was lost"


def _do(act: Callable[Concatenate[_A, _P], None]) -> Callable[Concatenate[Any, _A, _P], None]:
    """What has this act done, with what came in."""
    name = act.__name__

    def output(talk: object, acts: _A, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        getattr(acts, name)(*args, **kwargs)

    output.__name__ = name
    return output


def _build() -> TypeMachineBuilder[Conversation, Acts]:
    machine = TypeMachineBuilder(Conversation, Acts)  # type: ignore[type-abstract]

    connected = machine.state("connected")
    greeted = machine.state("greeted")
    hello_due = machine.state("hello due")
    introduced = machine.state("introduced")
    in_step = machine.state("in step")
    late = machine.state("joining late")
    # Of one that was in step, or takes itself to be, what it says of that means nothing any more.
    out_of_step = machine.state("out of step")
    fetching = machine.state("fetching")
    leaving = machine.state("leaving")
    closing = machine.state("closing")
    outside = (connected, greeted, hello_due, introduced)
    inside = (in_step, late, out_of_step, fetching)
    over = (leaving, closing)

    def refuse_what_only_members_say(
        talk: Conversation, acts: Acts, answer: Answer | None = None
    ) -> None:
        raise WireError("a message that only a client in the barrier may send")

    def refuse_fetch(talk: Conversation, acts: Acts, fetch: Fetch) -> None:
        raise WireError("a fetch by a client in the barrier")

    def turn_away_c_client(talk: Conversation, acts: Acts) -> None:
        acts.turn_away(_LIKE_JASMINE, Departure.LOST)

    def turn_away_lost(talk: Conversation, acts: Acts) -> None:
        acts.turn_away(LOST, Departure.LOST)

    # Who it is.
    connected.upon(Conversation.greet).to(greeted).returns(None)
    greeted.upon(Conversation.heard).to(hello_due).returns(None)
    hello_due.upon(Conversation.hello).to(introduced)(_do(Acts.introduced))
    connected.upon(Conversation.refuse).to(closing)(_do(Acts.refuse_at_once))
    introduced.upon(Conversation.refuse).to(closing)(_do(Acts.refuse))
    for state in (connected, introduced):
        state.upon(Conversation.admit_in_step).to(in_step)(_do(Acts.join_in_step))
    introduced.upon(Conversation.admit_late).to(late)(_do(Acts.join_late))
    introduced.upon(Conversation.admit_fetching).to(fetching)(_do(Acts.join_fetching))
    introduced.upon(Conversation.admit_out_of_step).to(out_of_step)(_do(Acts.join_out_of_step))

    # What it says while it is in.
    for state in (in_step, late):
        state.upon(Conversation.answer).loop()(_do(Acts.answered))
        state.upon(Conversation.ask_out).loop()(_do(Acts.hears_nothing))
        state.upon(Conversation.take_out).to(out_of_step)(_do(Acts.leave_step))
    for state in (out_of_step, fetching, *over):
        state.upon(Conversation.take_out).loop().returns(None)
    out_of_step.upon(Conversation.answer).loop().returns(None)
    out_of_step.upon(Conversation.ask_out).loop().returns(None)
    fetching.upon(Conversation.answer).loop()(refuse_what_only_members_say)
    fetching.upon(Conversation.ask_out).loop()(refuse_what_only_members_say)
    in_step.upon(Conversation.fetch).loop()(refuse_fetch)
    late.upon(Conversation.fetch).loop()(_do(Acts.fetches_what_was_before))
    out_of_step.upon(Conversation.fetch).loop()(_do(Acts.fetches))
    fetching.upon(Conversation.fetch).loop()(_do(Acts.fetches))
    for state in inside:
        state.upon(Conversation.report).loop()(_do(Acts.reported))
        state.upon(Conversation.hear_out).to(leaving)(_do(Acts.close))

    # How it ends.
    for state in (greeted, hello_due):
        state.upon(Conversation.time_out).to(closing)(_do(Acts.close_unheard))
    for state in outside:
        state.upon(Conversation.drop).to(closing)(_do(Acts.turn_away))
    greeted.upon(Conversation.lose).to(closing)(turn_away_c_client)
    for state in (connected, hello_due, introduced):
        state.upon(Conversation.lose).to(closing)(turn_away_lost)
    for state in inside:
        state.upon(Conversation.drop).to(closing)(_do(Acts.put_out))
        state.upon(Conversation.lose).to(closing)(_do(Acts.broken))
        state.upon(Conversation.end).to(leaving)(_do(Acts.ended))
    for state in outside:
        state.upon(Conversation.end).to(closing)(_do(Acts.ended))
    leaving.upon(Conversation.lose).to(closing)(_do(Acts.leave))

    # What changes nothing: the rest of what came at once, and what comes behind the end.
    for state in (connected, hello_due, introduced):
        state.upon(Conversation.heard).loop().returns(None)
    closing.upon(Conversation.lose).loop().returns(None)
    for state in over:
        for late_input in (
            Conversation.drop,
            Conversation.end,
            Conversation.time_out,
        ):
            state.upon(late_input).loop().returns(None)
        state.upon(Conversation.hear_out).loop().returns(None)
    return machine


class ProofActs(Protocol):
    """What the proof's table has done for it."""

    def ask_digest(self) -> None:
        """Call :meth:`Proof.digest` once all of the image is read."""

    def send_digest(self, digest: bytes) -> None:
        """Tell the client the digest."""


class Proof(Protocol):
    """The inputs, in the order of their first use."""

    def sent_all(self) -> None:
        """In step, it has been told that the empty buffer is sent."""

    def kept_all(self) -> None:
        """In step, it has kept all."""

    def told_end(self) -> None:
        """It has fetched all, and knows it."""

    def digest(self, digest: bytes) -> None:
        """The image's digest is known."""

    def leave_step(self) -> None:
        """It leaves the barrier."""

    def report(self) -> None:
        """It says that it has the image."""


def _build_proof() -> TypeMachineBuilder[Proof, ProofActs]:
    machine = TypeMachineBuilder(Proof, ProofActs)  # type: ignore[type-abstract]

    begun = machine.state("begun")
    end_known = machine.state("end known")
    told = machine.state("digest told")
    # The last DONE of who leaves then is ignored; it may still lack something, or nothing.
    told_out_of_step = machine.state("digest told, out of step")
    kept = machine.state("all kept")
    due = machine.state("report due")
    proved = machine.state("proved")

    def refuse_report(proof: Proof, acts: ProofActs) -> None:
        raise WireError("a report that is not due")

    ask, tell = _do(ProofActs.ask_digest), _do(ProofActs.send_digest)
    # In step a client is told before it has all, so that it need not ask for more.
    begun.upon(Proof.sent_all).to(end_known)(ask)
    begun.upon(Proof.told_end).to(kept)(ask)
    end_known.upon(Proof.digest).to(told)(tell)
    end_known.upon(Proof.kept_all).to(kept).returns(None)
    # It is told again that the image ends, once it has fetched the rest.
    end_known.upon(Proof.leave_step).to(begun).returns(None)
    told.upon(Proof.kept_all).to(due).returns(None)
    told.upon(Proof.leave_step).to(told_out_of_step).returns(None)
    told_out_of_step.upon(Proof.told_end).to(due).returns(None)
    kept.upon(Proof.digest).to(due)(tell)
    for state in (told_out_of_step, due):
        state.upon(Proof.report).to(proved).returns(None)

    for state in (begun, end_known, told, kept, proved):
        state.upon(Proof.report).loop()(refuse_report)
    for state in (begun, kept, due, proved, told_out_of_step):
        state.upon(Proof.leave_step).loop().returns(None)
    for state in (begun, told, told_out_of_step, due, proved):
        state.upon(Proof.digest).loop().returns(None)
    for state in (kept, due, proved):
        state.upon(Proof.told_end).loop().returns(None)
    return machine


_PLACES = {
    "in step": Place.IN_STEP,
    "joining late": Place.LATE,
    "out of step": Place.FETCHING,
    "fetching": Place.FETCHING,
    "leaving": Place.LEAVING,
    "closing": Place.CLOSING,
}


def place_of(machine: Conversation) -> Place:
    """Where a connection stands."""
    return _PLACES.get(state_of(machine), Place.UNIDENTIFIED)


def is_report_due(machine: Proof) -> bool:
    """Whether a report is all that a client owes."""
    return state_of(machine) == "report due"


#: Makes a machine that drives the given :class:`Acts`.
conversation = _build().build()
#: Makes a machine that drives the given :class:`ProofActs`.
proof = _build_proof().build()
