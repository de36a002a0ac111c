"""What is told of a client's run: one value, three readers."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from kollacast.client.account import Account
from kollacast.client.arrivals import Tally
from kollacast.client.endings import Failed, NoCopy, failed_by
from kollacast.operator.outcome import Outcome, Progress, Status
from kollacast.packets.buffer import InconsistentBuffer

_ACCOUNT = Account(
    phase="receiving",
    name="host1",
    server="10.0.0.1",
    seconds=1.23456,
    is_whole=False,
    image="rocky.tar",
    size=5000,
    dialect="kollacast",
    digest_name="blake3",
    digest=None,
    failsafe=None,
    bytes_kept=4000,
    bytes_resumed=1000,
    packets=Tally(multicast=3, repaired=2),
)


class AccountTests(SynchronousTestCase):
    def test_progress(self) -> None:
        self.assertEqual(_ACCOUNT.progress(), Progress("receiving", 4000, 5000, 0, 0, 2))

    def test_report(self) -> None:
        report = _ACCOUNT.report("no space")
        self.assertEqual((report["ok"], report["reason"]), (False, "no space"))
        self.assertEqual((report["blake3"], report["seconds"]), (None, 1.235))
        self.assertEqual((report["bytes"], report["bytes_resumed"]), (4000, 1000))

    def outcome(self, failed: Failed | None = None, **changes: object) -> Outcome:
        return replace(_ACCOUNT, **changes).outcome(failed)  # type: ignore[arg-type]

    def test_a_copy(self) -> None:
        outcome = self.outcome(is_whole=True, digest="abcd", packets=Tally(repaired=2, fetched=7))
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(
            outcome.line,
            "the image is here: 4000 bytes in 1.2 s, 2 packets repaired, 7 fetched, blake3 abcd",
        )
        self.assertTrue(outcome.report["ok"])

    def test_a_commit_that_was_quicker_than_a_failure(self) -> None:
        outcome = self.outcome(Failed("interrupted"), is_whole=True, digest="abcd")
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
