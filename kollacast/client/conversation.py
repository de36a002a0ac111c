"""One attempt to get the image, as a machine: what may be heard when, and what is done then.

It does no I/O: its inputs come from the connection, the stream and the disk, and
what is to be done for them is :class:`AttemptWork`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from automat import TypeMachineBuilder

from kollacast.client.endings import Ending, Failed, Got, Lost
from kollacast.client.terms import Terms, of_greeting, of_group_info
from kollacast.wire.greeting import Challenge, Greeting, GroupInfo, Refusal
from kollacast.wire.messages import Digest, Message, Report
from kollacast.wire.structures import WireError

#: What is wrong with a server that sends the digest out of turn.
_EARLY_DIGEST = "the digest comes before the image, or twice"


class AttemptWork(Protocol):
    """What the machine has done for it, and asks for."""

    @property
    def connected_s(self) -> float:
        """For how many seconds the connection has been open."""

    @property
    def can_fetch(self) -> bool:
        """Whether the rest of the image can be fetched on another connection."""

    def respond(self, challenge: Challenge) -> None:
        """Prove that this host knows the shared secret, or ``fail``."""

    def agree(self, terms: Terms) -> None:
        """See that the server is the right one, and what is here of the image.

        One of two inputs follows, or ``fail``.
        """

    def begin(self, terms: Terms, kept: int) -> None:
        """Say hello where that is due, and take the image from where ``kept`` bytes end."""

    def hand_on(self, message: Message) -> None:
        """The image begins to come: this, and what the server says of it from now on."""

    def expect(self, digest: bytes | None) -> None:
        """This is the image's digest; None where the server sends none.  May raise WireError."""

    def prove(self) -> None:
        """Compare the digests and commit: ``proved`` or ``fail`` follows."""

    def end(self, ending: Ending) -> None:
        """Close all that is open."""


class AttemptConversation(Protocol):
    """The machine's inputs, in the order of their first use.

    Those by which the server speaks raise WireError where that has no place.
    """

    def challenged(self, challenge: Challenge, /) -> None:
        """A server wants to know first whether this host knows the shared secret."""

    def greeted(self, terms: Terms) -> None:
        """A server has said what it has."""

    def agreed(self, terms: Terms, kept: int) -> None:
        """So many bytes are here: no more has to be known."""

    def joined(self, terms: Terms, kept: int) -> None:
        """Likewise, and the image comes without a word: it is a jasmine server."""

    def said(self, message: Message, /) -> None:
        """The server says its first word of the image."""

    def digest(self, value: bytes | None, /) -> None:
        """The digest of the whole image; None where the server sends none."""

    def kept(self) -> None:
        """All of the image is kept."""

    def proved(self) -> None:
        """It is the server's image, and has its name."""

    def turned_away(self, reason: str) -> None:
        """The server does not let this client in, for now."""

    def lost(self, lost: Lost) -> None:
        """The connection is closed, or the server says that another one may follow."""

    def fail(self, failed: Failed) -> None:
        """The run is over, whoever has ended it."""


def hear(conversation: AttemptConversation, message: Message) -> None:
    """Give the machine what the server says."""
    match message:
        case Challenge():
            conversation.challenged(message)
        case Greeting():
            conversation.greeted(of_greeting(message))
        case GroupInfo():
            conversation.greeted(of_group_info(message))
        case Refusal(reason):
            conversation.fail(_refused(reason))
        case Report() if message.says("refused"):
            if message.says("later"):
                conversation.turned_away(message.reason)
            else:
                conversation.fail(_refused(message.reason))
        case Report() if message.says("later"):
            conversation.lost(Lost(ended=message.reason))
        case Report():
            conversation.fail(_given_up(message.reason))
        case Digest(value):
            conversation.digest(value)
        case _:
            conversation.said(message)


def _refused(reason: str) -> Failed:
    return Failed(f"the server refuses this client: {reason}", keep=True)


def _given_up(reason: str) -> Failed:
    return Failed(f"the server gave up: {reason}", keep=True)


def _build() -> TypeMachineBuilder[AttemptConversation, AttemptWork]:
    machine = TypeMachineBuilder(AttemptConversation, AttemptWork)  # type: ignore[type-abstract]
    inputs = AttemptConversation

    greeting = machine.state("greeting")
    challenged = machine.state("challenged")
    agreeing = machine.state("agreeing")
    waiting = machine.state("waiting")
    receiving = machine.state("receiving")
    flushing = machine.state("flushing")  # the digest is here, and not all is kept
    complete = machine.state("complete")  # all is kept, and the digest is not here
    proving = machine.state("proving")
    over = machine.state("over")

    stream = (receiving, flushing, complete)

    # On the way to the first byte.

    @greeting.upon(inputs.challenged).to(challenged)
    def respond(_: AttemptConversation, work: AttemptWork, challenge: Challenge) -> None:
        work.respond(challenge)

    @greeting.upon(inputs.greeted).to(agreeing)
    @challenged.upon(inputs.greeted).to(agreeing)
    def agree(_: AttemptConversation, work: AttemptWork, terms: Terms) -> None:
        work.agree(terms)

    @agreeing.upon(inputs.agreed).to(waiting)
    @agreeing.upon(inputs.joined).to(receiving)
    def begin(_: AttemptConversation, work: AttemptWork, terms: Terms, kept: int) -> None:
        work.begin(terms, kept)

    # The image.

    @waiting.upon(inputs.said).to(receiving)
    @receiving.upon(inputs.said).loop()
    def hand_on(_: AttemptConversation, work: AttemptWork, message: Message) -> None:
        work.hand_on(message)

    @receiving.upon(inputs.digest).to(flushing)
    def expect(_: AttemptConversation, work: AttemptWork, digest: bytes | None) -> None:
        work.expect(digest)

    receiving.upon(inputs.kept).to(complete).returns(None)

    @flushing.upon(inputs.kept).to(proving)
    def prove(_: AttemptConversation, work: AttemptWork) -> None:
        work.prove()

    @complete.upon(inputs.digest).to(proving)
    def expect_and_prove(_: AttemptConversation, work: AttemptWork, digest: bytes | None) -> None:
        work.expect(digest)
        work.prove()

    @proving.upon(inputs.proved).to(over)
    def finish(_: AttemptConversation, work: AttemptWork) -> None:
        work.end(Got())

    # What has no place where it comes.

    def reject(_: AttemptConversation, work: AttemptWork, heard: object) -> None:
        raise WireError("the server speaks out of turn")

    def reject_digest(_: AttemptConversation, work: AttemptWork, digest: bytes | None) -> None:
        raise WireError(_EARLY_DIGEST)

    challenged.upon(inputs.challenged).loop()(reject)
    agreeing.upon(inputs.said).loop()(reject)
    for state in (agreeing, waiting, flushing, proving):
        state.upon(inputs.digest).loop()(reject_digest)

    # A server that does not want this client, or ends, or is gone.

    def be_refused(_: AttemptConversation, work: AttemptWork, reason: str) -> None:
        work.end(_refused(reason))

    def try_later(_: AttemptConversation, work: AttemptWork, reason: str) -> None:
        work.end(Lost(waited_s=work.connected_s, refused=reason))

    def lose(_: AttemptConversation, work: AttemptWork, lost: Lost) -> None:
        work.end(lost)

    def lose_waiting(_: AttemptConversation, work: AttemptWork, lost: Lost) -> None:
        work.end(replace(lost, waited_s=work.connected_s))

    def lose_stream(_: AttemptConversation, work: AttemptWork, lost: Lost) -> None:
        if work.can_fetch:
            work.end(replace(lost, has_begun=True))
        elif lost.ended is not None:
            work.end(_given_up(lost.ended))
        else:
            closed = "the server closed the connection before the image was complete"
            work.end(Failed(closed))

    for state in (agreeing, *stream, proving):
        state.upon(inputs.turned_away).to(over)(be_refused)
    for state in (greeting, challenged, agreeing):
        state.upon(inputs.lost).to(over)(lose)
    waiting.upon(inputs.turned_away).to(over)(try_later)
    waiting.upon(inputs.lost).to(over)(lose_waiting)
    for state in stream:
        state.upon(inputs.lost).to(over)(lose_stream)
    # All that the server has to say is known, and the disk has the last word.
    proving.upon(inputs.lost).loop().returns(None)

    # The end.

    def fail(_: AttemptConversation, work: AttemptWork, failed: Failed) -> None:
        work.end(failed)

    for state in (greeting, challenged, agreeing, waiting, *stream, proving):
        state.upon(inputs.fail).to(over)(fail)

    # Whatever still comes has nothing to change.
    for agreement in (inputs.agreed, inputs.joined):
        over.upon(agreement).loop().returns(None)
    for late in (inputs.kept, inputs.proved):
        over.upon(late).loop().returns(None)
    over.upon(inputs.digest).loop().returns(None)
    over.upon(inputs.lost).loop().returns(None)
    over.upon(inputs.fail).loop().returns(None)
    return machine


#: Makes a machine that drives the given :class:`AttemptWork`.
conversation = _build().build()
