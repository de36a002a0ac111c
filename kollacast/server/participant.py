"""One client: what it is, what serves it, and what its conversation has done."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kollacast.events.guard import Guard
from kollacast.sending.barrier import Phase
from kollacast.sending.fetching import Fetches
from kollacast.sending.history import History
from kollacast.sending.member import Member
from kollacast.sending.plan import Plan
from kollacast.sending.transfer import Transfer
from kollacast.server import admission
from kollacast.server.admission import Admission, InStep, Late, Refused, Situation
from kollacast.server.conversation import Answer, Departure, conversation, is_report_due, proving
from kollacast.server.credentials import Credentials, Peer
from kollacast.server.crowd_log import CrowdLog
from kollacast.server.movement import Movement
from kollacast.server.record import ClientRecord
from kollacast.transport.outgoing import Outgoing
from kollacast.transport.send_queue import SendQueue
from kollacast.wire.greeting import Hello, Refusal, Response
from kollacast.wire.messages import (
    Ask,
    Credit,
    Detach,
    Digest,
    Done,
    Fetch,
    Message,
    Ready,
    Report,
    Request,
)
from kollacast.wire.pieces import Want
from kollacast.wire.structures import WireError

_log = Logger()

#: What a C client makes of a greeting, of which it reads the first 16 bytes; ours does so with one
#: that asks for what it has not.
_LIKE_JASMINE = (
    "it closed the connection at the greeting, without a word, as the C client jasminec does,"
    " which needs a server with --dialect jasmine, or as a kollacast client that has --token-file"
    " or --tls-dir, or lacks the digest of this run: it says so itself"
)
#: The same of one that has spoken TLS.
_LIKE_A_STRANGER = (
    "it closed the connection at the first word, as a client does that has no --token-file, or that"
    " calls another address than this end's certificate names: it says so itself"
)
#: What is said of a connection that has ended by itself.
_LOST = "the connection was lost"


class Host(Protocol):
    """What a client needs of the server around it."""

    clock: IReactorTime
    guard: Guard
    crowd: CrowdLog
    credentials: Credentials
    history: History
    transfer: Transfer | None

    @property
    def stream(self) -> Transfer: ...  # the same, once it has begun
    @property
    def lack(self) -> str | None: ...  # why nobody can fetch, or None
    @property
    def plan(self) -> Plan: ...  # what is sent, as far as it is agreed on
    def situation(self, client: Participant | None = None) -> Situation: ...  # and who, if known
    def joined(self, client: Participant) -> None: ...  # it has a member where it is in step
    def left(self, client: Participant, how: Departure) -> None: ...  # its record says why
    def consider_end(self) -> None: ...  # for a client has the whole image


class Connection(Protocol):
    """The bytes between it and here."""

    outgoing: Outgoing

    def await_hello(self) -> None: ...  # give it a while to say who it is
    def introduced(self) -> None: ...  # it has said who it is
    def close(self) -> None: ...  # once all is sent, or after a while


class Participant:
    """Whoever is at the other end of ``connection``."""

    def __init__(self, host: Host, connection: Connection, address: str) -> None:
        self.record = ClientRecord(name=address, address=address)
        #: What the client has said of itself; None where the dialect has no word for it.
        self.hello: Hello | None = None
        #: Its place in the barrier, if it has one.
        self.member: Member | None = None
        #: What it fetches, if it does.
        self.fetching: Fetches | None = None
        #: What it is told by.
        self.connection = connection
        #: What has been said, and may be.
        self.talk = conversation(self)
        self._host = host
        self._dialect = host.plan.dialect
        self._nonce = secrets.token_hex(16)
        self._peer = Peer()
        self._is_greeted = False
        self._proof = proving(self)
        self._movement = Movement(host.clock)
        self._joined_at = 0.0
        # Up to which packet it had all in step, once it is so no more.
        self._done_in_step = 0

    # From the connection.

    def connected(self, peer: Peer) -> None:
        """It can be talked to, and this is known of it."""
        self._peer = peer
        if not self._dialect.introduces:
            self.connection.introduced()
            self._let_in(admission.admit(None, self.record.address, self._host.situation(self)))
            return
        refused = admission.may_speak(self.record.address, self._host.situation())
        if refused is not None:
            self._let_in(refused)
            return
        credentials = self._host.credentials
        if credentials.challenges:
            self._tell(credentials.challenge(self._nonce))
        else:
            self._greet()
        self.connection.await_hello()

    def hear(self, message: Message) -> None:
        """It has said this; raises WireError where it may not."""
        if isinstance(message, Answer):
            if self.member is not None:
                self._answered(self.member, message)
            else:
                self.talk.answer(message)
        elif isinstance(message, Fetch):
            self.talk.fetch(message)
        elif isinstance(message, Report):
            self.talk.report(message)
        elif isinstance(message, Hello):
            self.talk.hello(message)
        elif isinstance(message, Response):
            self._responded(message)
        else:
            raise WireError("a message that no client sends")

    def refill(self, queue: SendQueue) -> None:
        """Append what comes next, for the connection takes more."""
        if self.member is not None:
            self.member.refill(queue)
        if self.fetching is not None:
            self.fetching.refill()

    def lost(self, *, silent: bool, why: str | None = None) -> None:
        """Its connection has ended, by ``why``; whether it has never said anything."""
        if why is None and silent and self._dialect.introduces:
            why = _LIKE_A_STRANGER if self._host.credentials.are_on_tls else _LIKE_JASMINE
        self.talk.lose(why or _LOST)
        if self.fetching is not None:
            self.fetching.stop()

    # From the server.

    @property
    def can_fetch(self) -> bool:
        """Whether the client knows how to fetch."""
        return self.hello is not None and self.hello.fetch

    @property
    def is_unidentified(self) -> bool:
        """Whether it has said nothing yet that only a client says: hello, or else READY."""
        return self.hello is None and (self.member is None or not self.member.has_answered)

    @property
    def owes(self) -> str | None:
        """What is due from the client, if anything is."""
        if self.member is not None and self.member.owes is not None:
            return self.member.owes
        if is_report_due(self._proof):
            return Phase.PROVE.value
        if self.member is not None or self.record.verified:
            # What it fetches beside holds nobody up, until its report is due.
            return None
        if self.fetching is None or self.fetching.waits_for_image or self.fetching.has_told_end:
            # It waits itself, for the image or for its digest.
            return None
        return "FETCH" if self.fetching.idle else "room for more"

    @property
    def is_finishing(self) -> bool:
        """Whether the answer due is the client's last one, before which it syncs its file."""
        return is_report_due(self._proof) or (self.member is not None and self.member.is_finishing)

    @property
    def packets_done(self) -> int:
        """Up to which packet of the stream it has all, as far as that is known here."""
        kept = self.hello.kept if self.hello is not None else 0
        fetched = self.fetching.packets_done if self.fetching is not None else 0
        if self.member is None:
            return max(kept, fetched, self._done_in_step)
        if fetched < self.member.first_packet:
            return max(kept, fetched)
        return max(kept, self.member.packets_done)

    def quiet_s(self) -> float:
        """Seconds for which it has not moved, or has owed something, whichever is more."""
        still_s = self._movement.still_s
        return still_s if self.member is None else max(still_s, self.member.owed_s())

    def owed_s(self) -> float:
        """Seconds for which something has been due from it; in step, the others wait for it."""
        if self.member is not None and self.member.owes is not None:
            return self.member.owed_s()
        return self._movement.still_s if self.owes else 0.0

    def silent_s(self) -> float:
        """Seconds for which an answer has been due and nothing has moved."""
        if not self.owes:
            return 0.0
        if self.member is None or self.member.owes is None:
            return self._movement.still_s
        return min(self.member.owed_s(), self._movement.still_s)

    def drop(self, reason: str) -> None:
        """The client is out, and ``reason`` says why; once it has left, a no-op."""
        self.talk.drop(reason, Departure.PUT_OUT)

    def let_go(self, reason: str) -> None:
        """The others go on without it: it fetches, or is out where it cannot."""
        if self.can_fetch:
            self.talk.take_out(reason)
        else:
            self.drop(f"{reason}, and it cannot fetch")

    # From the member, and from what it fetches.

    @property
    def name(self) -> str:
        """What people call the client."""
        return f"{self.record.name} ({self.record.address})"

    @property
    def address(self) -> str:
        """Where it has come from."""
        return self.record.address

    @property
    def can_leave(self) -> bool:
        """Whether it can leave the barrier and fetch."""
        return self.can_fetch and self._host.lack is None

    @property
    def may_go(self) -> bool:
        """Whether the others may go on without it: who could fetch, and does not, is out then."""
        return self._host.lack is None

    def sent_all(self) -> None:
        """It has been told that the empty buffer is sent."""
        if self._dialect.proves:
            self._proof.sent_all()

    def kept_all(self) -> None:
        """It has kept all that came by multicast."""
        if self._dialect.proves:
            self._proof.kept_all()
        else:
            self._verify()

    def lacked(self, packets: int, of: int) -> None:
        """Of so many packets that were multicast to it, it lacked some at first."""
        self.record.packets_sent += of
        self.record.packets_lost += packets

    def resent(self, packets: int) -> None:
        """So many packets have gone to it by TCP, asked for one by one."""
        self._movement.resent(packets, self._host.plan.max_request)
        self.record.packets_repaired += packets
        if self.member is not None:
            self._host.stream.resent(self.member, packets)

    def send(self, message: bytes) -> None:
        """Send it what it waits for."""
        self._tell(message)

    def fetched(self, packets: int, end: int) -> None:
        """So many of the packets that it fetches have gone to it, up to the seq before ``end``."""
        self._movement.fetched(end)
        self.record.packets_fetched += packets

    def told_end(self) -> None:
        """It has fetched all, and knows it."""
        self._movement.moved()
        self._proof.told_end()

    # What the conversation has done: who it is.

    def introduced(self, hello: Hello) -> None:
        self.connection.introduced()
        # Who has proved a name has no other one.
        name = self._peer.name or hello.name or self.record.address
        self.hello = hello = replace(hello, name=name)
        self.record.name = name
        self._let_in(admission.admit(hello, self.record.address, self._host.situation(self)))

    def _responded(self, response: Response) -> None:
        """It has said what proves that it knows the secret; or does not."""
        proof = self._host.credentials.prove(self._nonce, response, self._peer)
        if proof is None:
            reason = "it does not know the shared secret, or somebody relays what it says"
            self._let_in(Refused(reason, note=reason))
            return
        refused = admission.may_speak(self.record.address, self._host.situation())
        if refused is not None:
            self._let_in(refused)
            return
        self._greet(proof)
        self.connection.await_hello()

    def _greet(self, proof: str = "") -> None:
        self._is_greeted = True
        self._tell(self._host.credentials.greet(self._host.situation(), proof))

    def _let_in(self, admitted: Admission) -> None:
        if isinstance(admitted, Refused):
            if admitted.note is not None and self._host.crowd.may_say():
                _log.warn(
                    "{address} is refused: {note}",
                    event="client-refused",
                    address=self.record.address,
                    note=admitted.note,
                )
            self.talk.refuse(admitted.reason, admitted.later)
        elif isinstance(admitted, InStep):
            self.talk.admit_in_step()
        elif isinstance(admitted, Late):
            self.talk.admit_late(admitted.reason)
        elif admitted.is_news:
            self.talk.admit_out_of_step(admitted.reason)
        else:
            self.talk.admit_fetching(admitted.reason)

    def refuse(self, reason: str, later: bool) -> None:
        if self.hello is not None:
            self._tell_and_close(reason, refused=True, later=later)
            return
        if self._dialect.introduces:
            self._tell(Refusal(reason).encode())
        self.connection.close()

    def turn_away(self, reason: str, how: Departure) -> None:
        if self._host.crowd.may_say(self.record.address):
            _log.info(
                "{address} is no client: {reason}",
                event="no-client",
                address=self.record.address,
                reason=reason,
            )
        if how is Departure.PUT_OUT:
            self._tell_and_close(reason)
        else:
            # Nothing is said, so that one which the network or its disk has held up comes back.
            self.connection.close()

    # What the conversation has done: how it gets the image.

    def join_in_step(self) -> None:
        if not self._dialect.introduces:
            self._greet()
        self.member = Member(
            self._host.clock,
            self._dialect,
            self.connection.outgoing,
            self,
            decodes=self.hello is not None and self.hello.coding,
            room=self.hello.room if self.hello is not None else 0,
        )
        self._join()

    def join_late(self, reason: str) -> None:
        self.join_in_step()
        self._serve(reason)

    def join_fetching(self, reason: str) -> None:
        self._join()
        self._serve(reason)

    def join_out_of_step(self, reason: str) -> None:
        self.join_fetching(reason)
        self._tell(Detach().encode(self._dialect))

    def leave_step(self, reason: str) -> None:
        member, self.member = self.member, None
        assert member is not None
        if self._host.crowd.may_say():
            _log.warn(
                "client {name} goes on by itself: {reason}",
                event="client-detached",
                name=self.name,
                host=self.record.name,
                reason=reason,
            )
        self._proof.leave_step()
        self._movement.moved()
        self._take_down(member)
        self._serve(reason)
        self._tell(Detach().encode(self._dialect))
        member.leave()

    def _answered(self, member: Member, answer: Answer) -> None:
        if isinstance(answer, Credit):
            member.credit(answer)
        elif isinstance(answer, Request):
            member.request(answer.seqs)
        elif isinstance(answer, Ask):
            member.ask(answer.known)
        elif isinstance(answer, Want):
            member.want(answer.buffer_id)
        elif isinstance(answer, Ready):
            member.ready()
        elif isinstance(answer, Done):
            member.done()
        elif self.can_leave:
            # Where nothing can be read again, repairs are all there is.
            transfer = self._host.transfer
            what = "no multicast reaches" if transfer is None else transfer.unreached(member)
            self.talk.take_out(f"{what} it")
        self._movement.answered(member.answers)

    def fetches(self, fetch: Fetch) -> None:
        if self.member is not None and not self.member.is_before(fetch):
            raise WireError("a fetch of what comes by multicast")
        assert self.fetching is not None
        self.fetching.fetch(fetch)
        self.connection.outgoing.pump()

    # What the conversation has done: the proof.

    def ask_digest(self) -> None:
        known = self._host.stream.known_digest()
        known.addCallback(self._proof.digest).addErrback(self._host.guard.failed)

    def send_digest(self, digest: bytes) -> None:
        self._movement.moved()
        self.send(Digest(digest).encode(self._dialect))

    def reported(self, report: Report) -> None:
        if not report.says("ok"):
            self.talk.drop(report.reason, Departure.GAVE_UP)
            return
        self._proof.report()
        if report.fields.get("tree") != self._host.stream.digests["tree"].hex():
            # Nobody was told it, so who knows it has the image, unless it is what all are told.
            raise WireError("a report that does not know the image's tree")
        self.record.take(report)
        self._verify()
        if self.member is not None:
            self.member.reported()
        # All is said, and the client waits to see that it was heard.
        self.talk.end(None, False)

    # What the conversation has done: the end.

    def put_out(self, reason: str, how: Departure) -> None:
        if self.is_unidentified:
            if self._host.crowd.may_say(self.record.address):
                _log.warn(
                    "{address} does not count as a client: {reason}",
                    event="client-uncounted",
                    address=self.record.address,
                    reason=reason,
                )
        else:
            self.record.reason = reason
            if self._host.crowd.may_say():
                _log.warn(
                    "client {name} is out: {reason}",
                    event="client-out",
                    name=self.name,
                    host=self.record.name,
                    reason=reason,
                )
        self._tell_and_close(reason)
        self.leave(how)

    def broken(self, reason: str) -> None:
        if self.record.verified:
            self.leave()
        else:
            self.put_out(reason, Departure.LOST if self.can_fetch else Departure.PUT_OUT)

    def ended(self, reason: str | None, later: bool) -> None:
        if reason is None or self.record.verified:
            self.connection.close()
        else:
            self.record.reason = reason
            self._tell_and_close(reason, later=later)

    def leave(self, how: Departure = Departure.PUT_OUT) -> None:
        if self.fetching is not None:
            self.fetching.stop()
        self.record.packets_done = self.packets_done
        # In this order: a barrier that falls for want of clients must not go on to the end.
        self._host.left(self, how)
        member, self.member = self.member, None
        if member is not None:
            self._take_down(member)
            member.leave()

    # Parts of it.

    def _join(self) -> None:
        self._joined_at = self._host.clock.seconds()
        self._movement.moved()
        self._host.joined(self)

    def _take_down(self, member: Member) -> None:
        """What is known of its place in the barrier outlives that."""
        self._done_in_step = member.packets_done
        self.record.seconds_answering = round(self.record.seconds_answering + member.answering_s, 3)

    def _serve(self, reason: str) -> None:
        self.record.fetching = reason
        if self.fetching is None:
            self.fetching = Fetches(self._host.plan, self._host.history, self, self._host.guard)

    def _verify(self) -> None:
        self.record.verified = True
        self.record.reason = None
        self.record.seconds = round(self._host.clock.seconds() - self._joined_at, 3)
        self._host.consider_end()

    def _tell(self, message: bytes) -> None:
        self.connection.outgoing.send(message)

    def _tell_and_close(self, reason: str, *, refused: bool = False, later: bool = False) -> None:
        if self._dialect.introduces and not self._is_greeted:
            # A refusal has a place there, and no word for later: then the client finds out itself.
            if not later:
                self._tell(Refusal(reason).encode())
        elif self._dialect.proves:
            report: dict[str, Any] = {"ok": False, "reason": reason}
            if refused:
                report["refused"] = True
            if later:
                report["later"] = True
            self._tell(Report(report).encode(self._dialect))
        self.connection.close()
