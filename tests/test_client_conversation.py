"""What a client does in each state with what it may hear: the machine alone, without I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from kollacast.client.conversation import _EARLY_DIGEST, AttemptConversation, conversation, hear
from kollacast.client.endings import Ending, Failed, Got, Lost
from kollacast.client.terms import of_greeting, of_group_info
from kollacast.receiving.shape import Way
from kollacast.wire.greeting import Challenge, Greeting, GroupInfo, Refusal
from kollacast.wire.messages import Digest, Message, Report, Sent
from kollacast.wire.structures import WireError

_GREETING = Greeting("s", 1, "239.1.1.1", 4000, 1500, 4, 2, "sha256")
_TERMS = of_greeting(_GREETING)
_CHALLENGE = Challenge("hmac-sha256", "0a")
_SENT = Sent()
_DIGEST = Digest(b"d" * 32)


class _Work:
    """Notes what it is asked to do."""

    def __init__(self, can_fetch: bool) -> None:
        self.can_fetch = can_fetch
        self.connected_s = 12.0
        self.done: list[Any] = []
        self.ending: Ending | None = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: self.done.append((name, *args))

    def end(self, ending: Ending) -> None:
        assert self.ending is None, "an attempt ends once"
        self.ending = ending


def _report(**fields: Any) -> Report:
    return Report({"reason": "why", **fields})


#: Each state but the first: the one before it, and what leads from there to it.
_STATES: dict[str, tuple[str, Callable[[AttemptConversation], None]]] = {
    "challenged": ("greeting", lambda machine: hear(machine, _CHALLENGE)),
    "agreeing": ("greeting", lambda machine: hear(machine, _GREETING)),
    "waiting": ("agreeing", lambda machine: machine.agreed(_TERMS, 0)),
    "receiving": ("waiting", lambda machine: hear(machine, _SENT)),
    "flushing": ("receiving", lambda machine: hear(machine, _DIGEST)),
    "complete": ("receiving", lambda machine: machine.kept()),
    "proving": ("flushing", lambda machine: machine.kept()),
}


def _enter(machine: AttemptConversation, state: str) -> None:
    if state in _STATES:
        before, step = _STATES[state]
        _enter(machine, before)
        step(machine)


class ConversationTests(SynchronousTestCase):
    def at(self, state: str, *, can_fetch: bool = False) -> tuple[AttemptConversation, _Work]:
        """A machine in ``state``, and the work that is asked for from then on."""
        work = _Work(can_fetch)
        machine = conversation(work)
        _enter(machine, state)
        work.done.clear()
        return machine, work

    def assert_ends(self, state: str, say: object, ending: Ending, **options: Any) -> None:
        """What is heard, or done to the machine, in ``state`` ends the attempt so."""
        machine, work = self.at(state, **options)
        if callable(say):
            say(machine)
        else:
            hear(machine, say)  # type: ignore[arg-type]
        self.assertEqual(work.ending, ending, (state, say))
        # Nothing that comes after the end changes anything.
        for agreement in (machine.agreed, machine.joined):
            agreement(_TERMS, 0)
        machine.kept()
        machine.digest(None)
        machine.proved()
        machine.lost(Lost())
        machine.fail(Failed("late"))

    def test_the_way_of_an_image(self) -> None:
        work = _Work(False)
        machine = conversation(work)
        hear(machine, _GREETING)
        machine.agreed(_TERMS, 7)
        for message in (_SENT, _DIGEST):
            hear(machine, message)
        machine.kept()
        machine.proved()
        self.assertEqual(
            work.done,
            [
                ("agree", _TERMS),
                ("begin", _TERMS, 7),
                ("hand_on", _SENT),
                ("expect", _DIGEST.value),
                ("prove",),
            ],
        )
        self.assertEqual(work.ending, Got())

    def test_the_disk_before_the_digest(self) -> None:
        machine, work = self.at("receiving")
        machine.kept()
        hear(machine, _DIGEST)
        self.assertEqual(work.done, [("expect", _DIGEST.value), ("prove",)])

    def test_a_jasmine_server(self) -> None:
        machine, work = self.at("greeting")
        info = GroupInfo("224.238.0.31", 18383)
        terms = of_group_info(info)
        hear(machine, info)
        machine.joined(terms, 0)
        hear(machine, _SENT)
        machine.kept()
        machine.digest(None)
        machine.proved()
        self.assertEqual(work.done[:3], [("agree", terms), ("begin", terms, 0), ("hand_on", _SENT)])
        self.assertEqual(work.done[3:], [("expect", None), ("prove",)])
        self.assertEqual(work.ending, Got())

    def test_a_shared_secret(self) -> None:
        machine, work = self.at("greeting")
        hear(machine, _CHALLENGE)
        self.assertEqual(work.done, [("respond", _CHALLENGE)])
        hear(machine, _GREETING)
        self.assertEqual(work.done[1:], [("agree", _TERMS)])

    def test_what_has_no_place_where_it_comes(self) -> None:
        turn, early = "the server speaks out of turn", _EARLY_DIGEST
        cases: list[tuple[Message, str, tuple[str, ...]]] = [
            (_SENT, turn, ("agreeing",)),
            (_DIGEST, early, ("agreeing", "waiting", "flushing", "proving")),
            (_CHALLENGE, turn, ("challenged",)),
        ]
        for message, complaint, states in cases:
            for state in states:
                machine, work = self.at(state)
                error = self.assertRaises(WireError, hear, machine, message)
                self.assertEqual((str(error), work.done), (complaint, []))
                machine.fail(Failed("breach"))
                self.assertEqual(work.ending, Failed("breach"))

    def test_refusals(self) -> None:
        refused = Failed("the server refuses this client: why", keep=True)
        self.assert_ends("greeting", Refusal("why"), refused)
        for state in _STATES:
            self.assert_ends(state, _report(refused=True), refused)
        later = _report(refused=True, later=True)
        for state in ("waiting",):
            self.assert_ends(state, later, Lost(waited_s=12.0, refused="why"))
        for state in ("agreeing", "receiving", "flushing", "complete", "proving"):
            self.assert_ends(state, later, refused)

    def test_a_server_that_gives_up(self) -> None:
        over = Failed("the server gave up: why", keep=True)
        for state in _STATES:
            self.assert_ends(state, _report(), over)
        later = _report(later=True)
        self.assert_ends("agreeing", later, Lost(ended="why"))
        for state in ("waiting",):
            self.assert_ends(state, later, Lost(waited_s=12.0, ended="why"))
        for state in ("receiving", "flushing", "complete"):
            self.assert_ends(state, later, over)
            self.assert_ends(state, later, Lost(has_begun=True, ended="why"), can_fetch=True)

    def test_a_connection_that_is_lost(self) -> None:
        def lose(machine: AttemptConversation) -> None:
            machine.lost(Lost())

        for state in ("greeting", "challenged", "agreeing"):
            self.assert_ends(state, lose, Lost())
        for state in ("waiting",):
            self.assert_ends(state, lose, Lost(waited_s=12.0))
        closed = Failed("the server closed the connection before the image was complete")
        for state in ("receiving", "flushing", "complete"):
            self.assert_ends(state, lose, closed)
            self.assert_ends(state, lose, Lost(has_begun=True), can_fetch=True)

    def test_the_disk_has_the_last_word(self) -> None:
        machine, work = self.at("proving")
        hear(machine, _report(later=True))
        machine.lost(Lost())
        self.assertIsNone(work.ending)
        machine.proved()
        self.assertEqual(work.ending, Got())

    def test_a_failure_in_each_state(self) -> None:
        failed = Failed("no space")
        for state in ("greeting", *_STATES):
            self.assert_ends(state, lambda machine: machine.fail(failed), failed)


class TermsTests(SynchronousTestCase):
    """What follows from a greeting."""

    def test_ways(self) -> None:
        for pull, late_join, kept, can, way in (
            (False, False, 0, True, Way.IN_STEP),
            (False, True, 0, True, Way.IN_STEP),
            (False, False, 7, True, Way.FETCHING),
            (False, True, 7, True, Way.LATE),
            (True, False, 0, True, Way.FETCHING),
            (True, True, 0, True, Way.LATE),
            (True, True, 0, False, Way.FETCHING),
        ):
            greeting = Greeting(
                "s", 1, "239.1.1.1", 4000, 1500, 4, 2, "sha256",
                fetch=True, image="ab", pull=pull, late_join=late_join,
            )  # fmt: skip
            self.assertEqual(of_greeting(greeting).way(kept, can), way)
