"""What is told of a client's run: one value, three readers."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from kollacast.client.account import Account
from kollacast.client.endings import Failed, NoCopy, failed_by
from kollacast.client.local_copy import LocalCopy
from kollacast.client.terms import of_greeting
from kollacast.operator.config import ClientConfig
from kollacast.operator.expectation import Expectation
from kollacast.operator.outcome import Outcome, Progress, Status
from kollacast.packets.buffer import InconsistentBuffer
from kollacast.receiving.output import Output
from kollacast.wire.greeting import Greeting
from tests.simulation.image import MemorySink
from tests.simulation.inline_worker import InlineWorker

_CONFIG = ClientConfig("10.0.0.7", "10.0.0.1", 4000, 30.0, "host1")
_GREETING = Greeting("s", 1, "239.1.1.1", 4000, 1500, 4, 2, "blake2b", name="rocky.tar", size=5000)


class AccountTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.copy = LocalCopy(
            MemorySink(), Expectation(), InlineWorker(), InlineWorker(), self.fail, lambda: 0.0
        )
        self.copy.terms = of_greeting(_GREETING)
        self.account = Account(self.copy, _CONFIG, "receiving", 1.23456)

    def keep(self) -> None:
        output = mock.create_autospec(Output, instance=True, bytes_kept=4000, bytes_resumed=1000)
        self.copy.output = output
        self.copy.tally.placed, self.copy.tally.retransmitted = 3, 2

    def test_progress(self) -> None:
        self.keep()
        self.assertEqual(self.account.progress(), Progress("receiving", 4000, 5000, 0, 0, 2))

    def test_nothing_is_known_yet(self) -> None:
        self.copy.terms = None
        self.assertEqual(self.account.progress(), Progress("receiving", 0, None, 0, 0, 0))
        report = self.account.report("no server")
        self.assertEqual((report["image"], report["dialect"], report["sha256"]), (None,) * 3)

    def test_report(self) -> None:
        self.keep()
        report = self.account.report("no space")
        self.assertEqual((report["ok"], report["reason"]), (False, "no space"))
        self.assertEqual((report["blake2b"], report["seconds"]), (None, 1.235))
        self.assertEqual((report["bytes"], report["bytes_resumed"]), (4000, 1000))
        self.assertEqual((report["packets_multicast"], report["packets_repaired"]), (3, 2))

    def outcome(self, failed: Failed | None = None, *, failsafe: str | None = None) -> Outcome:
        config = replace(_CONFIG, failsafe=failsafe)
        return replace(self.account, config=config).outcome(failed)

    def test_a_copy(self) -> None:
        self.keep()
        self.copy.tally.fetched = 7
        self.copy.is_whole, self.copy.digests = True, {"blake2b": b"\xab\xcd"}
        outcome = self.outcome()
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(
            outcome.line,
            "the image is here: 4000 bytes in 1.2 s, 2 packets repaired, 7 fetched, blake2b abcd",
        )
        self.assertTrue(outcome.report["ok"])

    def test_a_commit_that_was_quicker_than_a_failure(self) -> None:
        self.copy.is_whole, self.copy.digests = True, {"blake2b": b"\xab\xcd"}
        outcome = self.outcome(Failed("interrupted"))
        self.assertEqual((outcome.status, outcome.report["reason"]), (Status.OK, None))

    def test_no_copy(self) -> None:
        outcome = self.outcome(Failed("no server"))
        self.assertEqual((outcome.status, outcome.line), (Status.FAILED, "no server"))
        self.assertEqual(outcome.report["reason"], "no server")

    def test_a_failsafe_helps_where_this_host_is_not_at_fault(self) -> None:
        outcome = self.outcome(Failed("no server"), failsafe="10.0.0.9:4000")
        self.assertEqual(outcome.status, Status.FAILSAFE)
        self.assertIn("the failsafe registry 10.0.0.9:4000 has the image", outcome.line)
        own = Failed("no space", is_own_fault=True)
        self.assertEqual(self.outcome(own, failsafe="10.0.0.9:4000").status, Status.FAILED)

    def test_a_server_names_a_failsafe_too(self) -> None:
        self.copy.terms = of_greeting(replace(_GREETING, failsafe="10.0.0.8:4000"))
        self.assertIn("10.0.0.8:4000", self.outcome(Failed("no server")).line)
        self.assertIn("10.0.0.9:4000", self.outcome(Failed("x"), failsafe="10.0.0.9:4000").line)


class FailureTests(SynchronousTestCase):
    """What exceptions mean for a run."""

    def test_reasons(self) -> None:
        for error, reason, is_own in (
            (NoCopy("another image"), "another image", False),
            (InconsistentBuffer("sizes"), "sizes", False),
            (BrokenPipeError(32, "Broken pipe"), "nothing reads standard output", True),
            (OSError(28, "No space left on device"), "No space left on device", True),
            (MemoryError("a buffer"), "cannot hold the image: a buffer", True),
            (KeyError("x"), "an error of the program: KeyError('x')", True),
        ):
            failed = failed_by(error)
            self.assertIn(reason, failed.reason)
            self.assertEqual(failed.is_own_fault, is_own)
            self.assertEqual(failed.is_program_error, isinstance(error, KeyError))
