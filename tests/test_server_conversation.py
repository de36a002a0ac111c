"""The conversation with one client as a table: every state, what it does, and what it takes.

The acts are only noted; what comes of them for a session is tested with whole servers.
"""

from __future__ import annotations

from typing import Any

from automat import NoTransition
from twisted.trial.unittest import SynchronousTestCase

from kollacast.events.state import state_of
from kollacast.server.conversation import (
    Departure,
    conversation,
    is_report_due,
    proving,
)
from kollacast.wire.greeting import Hello
from kollacast.wire.messages import Detach, Done, Fetch, Ready, Report, Request
from kollacast.wire.structures import WireError

_HELLO = Hello("host1", 1 << 20)
_FETCH = Fetch(0, 1)
_REPORT = Report({"ok": True})
_WHY = "for a reason"
_HOW = Departure.PUT_OUT

#: How each state is reached.
_WAYS: dict[str, list[tuple[Any, ...]]] = {
    "unidentified": [],
    "introduced": [("hello", _HELLO)],
}
_WAYS["in step"] = [*_WAYS["introduced"], ("admit_in_step",)]
_WAYS["joining late"] = [*_WAYS["introduced"], ("admit_late", _WHY)]
_WAYS["fetching"] = [*_WAYS["introduced"], ("admit_fetching", _WHY)]
_WAYS["out of step"] = [*_WAYS["in step"], ("take_out", _WHY)]
_WAYS["leaving"] = [*_WAYS["in step"], ("end", None, False)]
_WAYS["closing"] = [*_WAYS["in step"], ("drop", _WHY, _HOW)]

_OUTSIDE = ("unidentified", "introduced")
_MEMBERS = ("in step", "joining late")
_INSIDE = (*_MEMBERS, "fetching", "out of step")
_OVER = ("leaving", "closing")


class _Acts:
    """Notes what the table has done, by name and with what came."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *said: self.done.append((name, *said))


class ConversationTests(SynchronousTestCase):
    """One input at a time."""

    def reach(self, state: str) -> tuple[Any, _Acts]:
        acts = _Acts()
        talk = conversation(acts)
        for name, *said in _WAYS[state]:
            getattr(talk, name)(*said)
        acts.done.clear()
        return talk, acts

    def assert_does(
        self, state: str, said: tuple[Any, ...], acts: list[tuple[Any, ...]], after: str
    ) -> None:
        talk, noted = self.reach(state)
        getattr(talk, said[0])(*said[1:])
        self.assertEqual(noted.done, acts, (state, said))
        self.assertEqual(state_of(talk), after, (state, said))

    def assert_breaks(self, state: str, said: tuple[Any, ...], why: str) -> None:
        talk, noted = self.reach(state)
        error = self.assertRaises(WireError, getattr(talk, said[0]), *said[1:])
        self.assertEqual((str(error), noted.done, state_of(talk)), (why, [], state), (state, said))

    def test_a_client_is_let_in(self) -> None:
        for said, act, after in (
            (("admit_in_step",), ("join_in_step",), "in step"),
            (("admit_late", _WHY), ("join_late", _WHY), "joining late"),
            (("admit_fetching", _WHY), ("join_fetching", _WHY), "fetching"),
            (("admit_out_of_step", _WHY), ("join_out_of_step", _WHY), "out of step"),
        ):
            self.assert_does("introduced", said, [act], after)
        # One that is not asked who it is.
        self.assert_does("unidentified", ("admit_in_step",), [("join_in_step",)], "in step")
        for state in _OUTSIDE:
            for later in (True, False):
                refusal = ("refuse", _WHY, later)
                self.assert_does(state, refusal, [refusal], "closing")

    def test_what_members_say(self) -> None:
        for state in _MEMBERS:
            self.assert_does(state, ("take_out", _WHY), [("leave_step", _WHY)], "out of step")
        self.assert_breaks("in step", ("fetch", _FETCH), "a fetch by a client in the barrier")

    def test_what_one_says_that_fetches(self) -> None:
        for state in ("joining late", "fetching", "out of step"):
            self.assert_does(state, ("fetch", _FETCH), [("fetches", _FETCH)], state)
        for state in ("fetching", "out of step"):
            self.assert_does(state, ("take_out", _WHY), [], state)
        for answer in (Ready(), Done(), Request((1,)), Detach()):
            # Said before it has read that it is out.
            self.assert_does("out of step", ("answer", answer), [], "out of step")
            why = "a message that only a client in the barrier may send"
            self.assert_breaks("fetching", ("answer", answer), why)

    def test_reports(self) -> None:
        for state in _INSIDE:
            self.assert_does(state, ("report", _REPORT), [("reported", _REPORT)], state)

    def test_one_that_is_no_client(self) -> None:
        for state in _OUTSIDE:
            for how in Departure:
                said, act = ("drop", _WHY, how), ("turn_away", _WHY, how)
                self.assert_does(state, said, [act], "closing")
            act = ("turn_away", _WHY, Departure.LOST)
            self.assert_does(state, ("lose", _WHY), [act], "closing")

    def test_how_a_client_is_lost(self) -> None:
        for state in _INSIDE:
            self.assert_does(state, ("drop", _WHY, _HOW), [("put_out", _WHY, _HOW)], "closing")
            self.assert_does(state, ("lose", _WHY), [("broken", _WHY)], "closing")
        self.assert_does("leaving", ("lose", _WHY), [("leave",)], "closing")
        self.assert_does("closing", ("lose", _WHY), [], "closing")

    def test_the_end(self) -> None:
        for reason in (None, _WHY):
            for later in (True, False):
                said = ("end", reason, later)
                act = ("ended", reason, later)
                for state in _OUTSIDE:
                    self.assert_does(state, said, [act], "closing")
                for state in _INSIDE:
                    self.assert_does(state, said, [act], "leaving")

    def test_what_comes_behind_the_end_changes_nothing(self) -> None:
        for state in _OVER:
            for said in (("drop", _WHY, _HOW), ("end", _WHY, True), ("take_out", _WHY)):
                self.assert_does(state, said, [], state)

    def test_nobody_says_anything_before_it_is_in(self) -> None:
        for state in _OUTSIDE:
            for said in (("answer", Ready()), ("fetch", _FETCH), ("report", _REPORT)):
                talk, _ = self.reach(state)
                self.assertRaises(NoTransition, getattr(talk, said[0]), *said[1:])


class ProofTests(SynchronousTestCase):
    """When a report is due, whatever comes first."""

    def run_through(self, *words: str) -> tuple[Any, list[tuple[Any, ...]]]:
        acts = _Acts()
        machine = proving(acts)
        for word in words:
            getattr(machine, word)(*([b"digest"] if word == "digest" else []))
        return machine, acts.done

    _ASKED = ("ask_digest",)
    _TOLD = ("send_digest", b"digest")

    def test_a_report_is_due_once_all_is_told_and_kept(self) -> None:
        for words in (
            ("sent_all", "digest", "kept_all"),
            ("sent_all", "kept_all", "digest"),
            ("told_end", "digest"),
            ("leave_step", "told_end", "digest"),
            ("sent_all", "digest", "leave_step", "told_end"),
            ("sent_all", "kept_all", "leave_step", "digest"),
            ("sent_all", "kept_all", "leave_step", "told_end", "digest"),
        ):
            for count in range(len(words)):
                machine, _ = self.run_through(*words[:count])
                self.assertFalse(is_report_due(machine), words[:count])
            machine, done = self.run_through(*words)
            self.assertTrue(is_report_due(machine), words)
            self.assertEqual(done, [self._ASKED, self._TOLD], words)
            machine.report()
            self.assertFalse(is_report_due(machine), words)

    def test_it_stays_due_whatever_becomes_of_the_client(self) -> None:
        machine, _ = self.run_through("sent_all", "digest", "kept_all", "leave_step", "told_end")
        self.assertTrue(is_report_due(machine))

    def test_who_has_left_is_told_once_it_knows_the_end(self) -> None:
        machine, done = self.run_through("sent_all", "leave_step", "digest")
        self.assertEqual(done, [self._ASKED])
        machine.told_end()
        machine.digest(b"digest")
        self.assertEqual(done, [self._ASKED, self._ASKED, self._TOLD])
        self.assertTrue(is_report_due(machine))

    def test_who_has_left_with_the_digest_may_have_all(self) -> None:
        """Its last DONE is ignored."""
        machine, _ = self.run_through("sent_all", "digest", "leave_step")
        self.assertFalse(is_report_due(machine))
        machine.report()

    def test_a_report_that_is_not_due(self) -> None:
        for words in (
            (),
            ("sent_all",),
            ("sent_all", "digest"),
            ("sent_all", "kept_all"),
            ("told_end",),
            ("sent_all", "leave_step"),
            ("sent_all", "digest", "kept_all", "report"),
        ):
            machine, _ = self.run_through(*words)
            error = self.assertRaises(WireError, machine.report)
            self.assertEqual(str(error), "a report that is not due", words)

    def test_the_digest_is_told_once(self) -> None:
        machine, done = self.run_through("sent_all", "digest", "digest", "kept_all", "digest")
        machine.report()
        machine.digest(b"digest")
        self.assertEqual(done, [self._ASKED, self._TOLD])
