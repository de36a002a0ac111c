"""One run under a reactor in memory, from its start to its exit status or to an early end."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from kollacast.command.progress import Display
from kollacast.command.service import INTERRUPT_S, KollacastService, Running, describe, write_report
from kollacast.operator.outcome import Outcome, Progress, Status

_DONE = Outcome(Status.OK, "3 of 3 clients have the image", {"bytes": 12, "clients": []})


class _Program:
    """An engine whose end the test decides."""

    def __init__(self) -> None:
        self.ending: Deferred[Outcome] = Deferred()
        self.is_running = False
        self.reasons: list[str] = []

    @property
    def session(self) -> str:
        return "0f1e2d3c4b5a6978"

    def run(self) -> Deferred[Outcome]:
        self.is_running = True
        return self.ending

    def progress(self, most_hosts: int = 0) -> Progress:
        return Progress("sending", 0, None, 0, 3, 0)

    def interrupt(self, reason: str) -> Deferred[None]:
        self.reasons.append(reason)
        return Deferred()


class _Reactor(MemoryReactorClock):
    def __init__(self) -> None:
        super().__init__()
        self.stops = 0

    def run(self) -> None:
        super().run()
        self.stops -= 1  # that `run` ends by calling stop is a habit of the imitation

    def stop(self) -> None:
        self.stops += 1


class _RunCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = _Reactor()
        self.program = _Program()
        self.announced: list[str] = []
        self.statuses: list[Status] = []
        self.releases = 0
        self.report = Path(self.mktemp())

    def release(self) -> None:
        self.releases += 1

    def make_service(self, with_report: bool = True) -> KollacastService:
        return KollacastService(
            self.reactor,
            self.reactor,
            self.prepare,
            Display(),
            lambda event, line, level=LogLevel.info: self.announced.append(line),
            self.statuses.append,
            str(self.report) if with_report else None,
        )

    def prepare(self) -> Running:
        return Running(self.program, self.release)

    def start(self, with_report: bool = True) -> KollacastService:
        made = self.make_service(with_report)
        made.startService()
        self.reactor.run()
        return made


class EndingTests(_RunCase):
    def test_begins_when_the_reactor_runs(self) -> None:
        self.make_service().startService()
        self.assertFalse(self.program.is_running)
        self.reactor.run()
        self.assertTrue(self.program.is_running)

    def test_success(self) -> None:
        self.start()
        self.assertEqual((self.announced, self.statuses, self.reactor.stops), ([], [], 0))
        self.program.ending.callback(_DONE)
        self.assertEqual(self.announced, ["3 of 3 clients have the image"])
        self.assertEqual(self.statuses, [Status.OK])
        self.assertEqual((self.reactor.stops, self.releases), (1, 1))
        self.assertEqual(
            json.loads(self.report.read_text()),
            {
                "exit_status": 0,
                "message": "3 of 3 clients have the image",
                "bytes": 12,
                "clients": [],
            },
        )
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_what_was_wrong_comes_before_the_last_line(self) -> None:
        self.start()
        outcome = Outcome(Status.OK, "all have it", {}, ("a cable is bad", "a disk is slow"))
        self.program.ending.callback(outcome)
        self.assertEqual(
            self.announced,
            ["diagnosis: a cable is bad", "diagnosis: a disk is slow", "all have it"],
        )

    def test_every_status(self) -> None:
        for status in Status:
            self.setUp()
            self.start()
            self.program.ending.callback(Outcome(status, "so it is"))
            self.assertEqual(self.statuses, [status])
            self.assertEqual(json.loads(self.report.read_text())["exit_status"], int(status))

    def test_at_once(self) -> None:
        self.program.ending.callback(Outcome(Status.FAILED, "port 18383 is in use"))
        self.start()
        self.assertEqual(self.announced, ["port 18383 is in use"])
        self.assertEqual((self.statuses, self.reactor.stops), ([Status.FAILED], 1))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_no_report_asked_for(self) -> None:
        self.start(with_report=False)
        self.program.ending.callback(_DONE)
        self.assertFalse(self.report.exists())
        self.assertEqual(self.statuses, [Status.OK])

    def test_stop_after_the_end(self) -> None:
        made = self.start()
        self.program.ending.callback(_DONE)
        self.assertIsNone(made.stopService())
        self.assertEqual((self.program.reasons, self.reactor.stops), ([], 1))


class StartNowTests(_RunCase):
    """A signal that comes at any time."""

    def setUp(self) -> None:
        super().setUp()
        self.starts = 0

    def prepare(self) -> Running:
        return Running(self.program, self.release, self._start)

    def _start(self) -> None:
        self.starts += 1

    def test_while_it_runs(self) -> None:
        self.start().start_now()
        self.assertEqual(self.starts, 1)

    def test_before_it_runs(self) -> None:
        self.make_service().start_now()
        self.assertEqual(self.starts, 0)

    def test_after_the_end(self) -> None:
        made = self.start()
        self.program.ending.callback(_DONE)
        made.start_now()
        self.assertEqual(self.starts, 0)


class _Page:
    """A status page that the test ends."""

    def __init__(self) -> None:
        self.is_there = False
        self.shown: list[tuple[Outcome, bool]] = []
        self.over: Deferred[None] = Deferred()

    def start(self) -> None:
        self.is_there = True

    def end(self, outcome: Outcome, *, at_once: bool) -> Deferred[None]:
        self.shown.append((outcome, at_once))
        return self.over


class PageTests(_RunCase):
    """A page where others watch."""

    def setUp(self) -> None:
        super().setUp()
        self.page = _Page()

    def prepare(self) -> Running:
        return Running(self.program, self.release, page=self.page)

    def test_it_stays_for_as_long_as_it_wants(self) -> None:
        self.start()
        self.assertTrue(self.page.is_there)
        self.program.ending.callback(_DONE)
        # All but the process has ended by then.
        self.assertEqual((self.announced, self.statuses), ([_DONE.line], [Status.OK]))
        self.assertTrue(self.report.exists())
        self.assertEqual((self.page.shown, self.releases), ([(_DONE, False)], 1))
        self.assertEqual(self.reactor.stops, 0)
        self.page.over.callback(None)
        self.assertEqual(self.reactor.stops, 1)

    def test_a_signal_while_it_stays(self) -> None:
        made = self.start()
        self.program.ending.callback(_DONE)
        self.assertIsNone(made.stopService())
        self.assertEqual(self.program.reasons, [])

    def test_a_signal_before(self) -> None:
        made = self.start()
        over = made.stopService()
        assert over is not None
        self.program.ending.callback(_DONE)
        self.assertEqual(self.page.shown, [(_DONE, True)])
        self.assertNoResult(over)
        self.page.over.callback(None)
        self.successResultOf(over)
        self.assertEqual(self.reactor.stops, 0)

    def test_it_cannot_be_there(self) -> None:
        def start() -> None:
            raise OSError("cannot serve the status page at 127.0.0.1 port 80: Permission denied")

        self.page.start = start  # type: ignore[method-assign]
        self.page.over.callback(None)
        self.start()
        self.assertFalse(self.program.is_running)
        self.assertEqual((self.statuses, self.reactor.stops), ([Status.FAILED], 1))
        self.assertIn("Permission denied", self.announced[0])

    def test_it_fails_in_the_end(self) -> None:
        self.start()
        self.page.over.errback(ZeroDivisionError())
        self.program.ending.callback(_DONE)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((self.statuses, self.reactor.stops), ([Status.OK], 1))


class TroubleTests(_RunCase):
    def test_input_gone_since_the_check(self) -> None:
        def prepare() -> Running:
            raise FileNotFoundError(2, "No such file or directory", "/srv/image")

        self.prepare = prepare  # type: ignore[method-assign]
        self.start()
        self.assertEqual(self.announced, ["/srv/image: No such file or directory"])
        self.assertEqual((self.statuses, self.reactor.stops), ([Status.FAILED], 1))

    def test_whatever_is_raised_in_the_start(self) -> None:
        def prepare() -> Running:
            raise UnicodeEncodeError("utf-8", "caf\udce9", 3, 4, "surrogates not allowed")

        self.prepare = prepare  # type: ignore[method-assign]
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(UnicodeEncodeError)), 1)
        self.assertEqual(len(self.announced), 1)
        self.assertIn("gave up: ", self.announced[0])
        self.assertIn("surrogates not allowed", self.announced[0])
        self.assertEqual((self.statuses, self.reactor.stops), ([Status.FAILED], 1))
        self.assertEqual(json.loads(self.report.read_text())["exit_status"], 1)

    def test_engine_that_raises_at_once(self) -> None:
        def run() -> Deferred[Outcome]:
            raise KeyError("no such thing")

        self.program.run = run  # type: ignore[method-assign]
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual((self.statuses, self.reactor.stops), ([Status.FAILED], 1))
        self.assertEqual(self.releases, 1)

    def test_input_that_cannot_be_given_back(self) -> None:
        def release() -> None:
            raise OSError(errno.EIO, "Input/output error")

        self.release = release  # type: ignore[method-assign]
        self.start()
        self.program.ending.callback(_DONE)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual((self.announced, self.statuses), ([_DONE.line], [Status.OK]))
        self.assertEqual(self.reactor.stops, 1)

    def test_report_of_what_is_no_report(self) -> None:
        self.start()
        self.program.ending.callback(Outcome(Status.OK, "done", {(1, 2): 3}))  # type: ignore[dict-item]
        self.assertIn("the report was not written", self.announced[0])
        self.assertEqual((self.statuses, self.reactor.stops), ([Status.FAILED], 1))

    def test_line_that_nobody_takes(self) -> None:
        def announce(event: str, line: str, level: object = None) -> None:
            raise UnicodeEncodeError("ascii", line, 0, 1, "not in range")

        made = self.make_service()
        made._announce = announce
        made.startService()
        self.reactor.run()
        self.program.ending.callback(Outcome(Status.PARTIAL, "2 of 3"))
        self.assertEqual(len(self.flushLoggedErrors(UnicodeEncodeError)), 1)
        self.assertEqual((self.statuses, self.reactor.stops), ([Status.PARTIAL], 1))

    def test_file_whose_name_is_no_text(self) -> None:
        error = FileNotFoundError(2, "No such file or directory", "/srv/caf\udce9.tgz")
        self.assertEqual(describe(error), "/srv/caf\\xe9.tgz: No such file or directory")

    def test_engine_that_fails_against_its_word(self) -> None:
        self.start()
        self.program.ending.errback(ZeroDivisionError("division by zero"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.announced, ["gave up: division by zero"])
        self.assertEqual((self.statuses, self.reactor.stops), ([Status.FAILED], 1))

    def test_report_that_cannot_be_written(self) -> None:
        self.report = Path(self.mktemp(), "folder", "report.json")
        self.start()
        self.program.ending.callback(_DONE)
        self.assertEqual(len(self.announced), 2)
        self.assertIn("the report was not written", self.announced[0])
        self.assertEqual(self.statuses, [Status.FAILED])

    def test_report_that_cannot_be_written_hides_no_status(self) -> None:
        self.report = Path(self.mktemp(), "folder", "report.json")
        self.start()
        self.program.ending.callback(Outcome(Status.PARTIAL, "2 of 3"))
        self.assertEqual(self.statuses, [Status.PARTIAL])

    def test_report_that_json_cannot_say(self) -> None:
        self.report.write_text("older")
        self.start()
        self.program.ending.callback(Outcome(Status.OK, "done", {"rate": float("inf")}))
        self.assertIn("the report was not written", self.announced[0])
        self.assertEqual(self.statuses, [Status.FAILED])
        self.assertEqual(self.report.read_text(), "older")


class InterruptTests(_RunCase):
    def test_interrupt(self) -> None:
        made = self.start()
        stopped = made.stopService()
        assert stopped is not None
        self.assertEqual(self.program.reasons, ["interrupted"])
        self.assertEqual(self.releases, 1)
        self.assertNoResult(stopped)
        self.program.ending.callback(Outcome(Status.FAILED, "interrupted"))
        self.successResultOf(stopped)
        self.assertEqual((self.announced, self.statuses), (["interrupted"], [Status.FAILED]))
        self.assertTrue(self.report.exists())
        self.assertEqual(self.reactor.stops, 0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_engine_that_does_not_end(self) -> None:
        made = self.start()
        stopped = made.stopService()
        assert stopped is not None
        self.reactor.advance(INTERRUPT_S)
        self.successResultOf(stopped)
        self.assertEqual(self.announced, ["interrupted, and not ended within 5 s"])
        self.assertEqual(self.statuses, [Status.FAILED])
        self.assertTrue(self.report.exists())
        self.program.ending.callback(_DONE)
        self.assertEqual(len(self.announced), 1)

    def test_interrupt_that_fails(self) -> None:
        def interrupt(reason: str) -> Deferred[None]:
            raise ZeroDivisionError

        self.program.interrupt = interrupt  # type: ignore[method-assign]
        made = self.start()
        stopped = made.stopService()
        assert stopped is not None
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.program.ending.callback(Outcome(Status.FAILED, "interrupted"))
        self.successResultOf(stopped)

    def test_before_the_reactor_runs(self) -> None:
        made = self.make_service()
        made.startService()
        self.assertIsNone(made.stopService())
        self.reactor.run()
        self.assertFalse(self.program.is_running)


class ReportTests(SynchronousTestCase):
    def test_older_one_stays_until_the_new_one_is_whole(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder / "report.json"
        path.write_text("older")
        self.patch(os, "writev", self._fail)
        self.assertRaises(OSError, write_report, str(path), _DONE)
        self.assertEqual(path.read_text(), "older")
        self.assertEqual(os.listdir(folder), ["report.json"])

    def _fail(self, fd: int, data: list[bytes]) -> int:
        raise OSError(28, "No space left on device")
