"""The shell as processes: what reaches which stream, what is left behind, and the exit status.

The client in these processes only pretends (`tests.fake_client`); all around it is real.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_CHECKOUT = Path(__file__).parent.parent
_PATIENCE_S = 120.0


class _ShellTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def command(self, task: str, *words: str, twistd: tuple[str, ...] = ("-n",)) -> list[str]:
        script = [sys.executable, str(_CHECKOUT / "tests" / "fake_client.py"), *twistd]
        client = ["kollacast-client", "127.0.0.1", "127.0.0.1", "--name", task]
        return [*script, *client, "--progress", "none", *words]

    def environment(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if name != "KOLLACAST_DEBUG"}
        return {**clean, "PYTHONPATH": str(_CHECKOUT), **more}

    def run_client(
        self, task: str, *words: str, twistd: tuple[str, ...] = ("-n",), **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(task, *words, twistd=twistd),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.folder,
            env=self.environment(**environment),
            timeout=_PATIENCE_S,
        )

    def start_client(self, task: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a client and return when it says that it waits."""
        process = subprocess.Popen(
            self.command(task, *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env=self.environment(),
        )
        self.addCleanup(self._end, process)
        assert process.stderr is not None
        self.assertEqual(process.stderr.readline(), b"kollacast-client: waiting\n")
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.communicate(timeout=_PATIENCE_S)

    def assertLeft(self, *names: str) -> None:
        self.assertEqual(sorted(os.listdir(self.folder)), sorted(names))


class ExitStatusTests(_ShellTestCase):
    def check(self, task: str, status: int, line: str) -> None:
        run = self.run_client(task)
        self.assertEqual(run.stderr.decode(), f"kollacast-client: {line}\n")
        self.assertEqual(run.returncode, status)
        self.assertEqual(run.stdout, b"")
        self.assertLeft()

    def test_ok(self) -> None:
        self.check("ok", 0, "ended with OK")

    def test_failed(self) -> None:
        self.check("failed", 1, "ended with FAILED")

    def test_partial(self) -> None:
        self.check("partial", 4, "ended with PARTIAL")

    def test_usage(self) -> None:
        run = self.run_client("ok", "--bogus")
        self.assertEqual(run.stderr, b"kollacast-client: option --bogus not recognized\n")
        self.assertEqual((run.returncode, run.stdout), (2, b""))

    def test_report_that_cannot_be_written(self) -> None:
        run = self.run_client("ok", "--report", "no/such/folder")
        self.assertEqual(run.returncode, 2)
        self.assertEqual(run.stderr.count(b"\n"), 1)

    def test_exit_handlers_run(self) -> None:
        run = self.run_client("noisy")
        self.assertEqual(run.returncode, 1)
        self.assertTrue(run.stderr.endswith(b"\nexit handler\n"), run.stderr)

    def test_pid_file_is_removed(self) -> None:
        run = self.run_client("failed", twistd=("-n", "--pidfile", "some.pid"))
        self.assertEqual(run.returncode, 1)
        self.assertLeft()


class StreamsTests(_ShellTestCase):
    def test_image_on_standard_output(self) -> None:
        run = self.run_client("image")
        self.assertEqual(run.stdout, b"the image")
        self.assertEqual(run.returncode, 0)

    def test_image_in_a_file(self) -> None:
        run = self.run_client("image", "--output", "image.tgz")
        self.assertEqual((run.returncode, run.stdout), (0, b""))
        self.assertEqual((self.folder / "image.tgz").read_bytes(), b"the image")
        self.assertLeft("image.tgz")

    def test_half_an_image(self) -> None:
        (self.folder / "image.tgz").write_bytes(b"older")
        run = self.run_client("half", "--output", "image.tgz")
        self.assertEqual(run.returncode, 1)
        self.assertEqual((self.folder / "image.tgz").read_bytes(), b"older")
        self.assertLeft("image.tgz")

    def test_noise(self) -> None:
        run = self.run_client("noisy")
        self.assertEqual(run.stdout, b"")
        self.assertEqual(
            run.stderr.decode().splitlines(),
            [
                "kollacast-client: print on stderr",
                "descriptor 1",
                "kollacast-client: warning",
                "kollacast-client: two lines\\x1b[2J",
                "kollacast-client: while pretending: ValueError: legacy trouble",
                "kollacast-client: ended with FAILED",
                "exit handler",
            ],
        )

    def test_everything_on_request(self) -> None:
        run = self.run_client("noisy", KOLLACAST_DEBUG="1")
        self.assertEqual(run.stdout, b"")
        for line in (b"chatter", b"detail", b"deprecated", b"ValueError: legacy trouble"):
            self.assertIn(line, run.stderr)

    def test_a_fault_of_ours(self) -> None:
        run = self.run_client("breaks")
        self.assertEqual((run.returncode, run.stdout), (1, b""))
        self.assertEqual(
            run.stderr.decode().splitlines(),
            [
                "kollacast-client: unexpected error: ZeroDivisionError: division by zero",
                "kollacast-client: gave up: division by zero",
            ],
        )

    def test_a_fault_in_a_thread(self) -> None:
        run = self.run_client("loose")
        self.assertEqual((run.returncode, run.stdout), (1, b""))
        self.assertNotIn(b"Traceback", run.stderr)
        self.assertIn(b"ZeroDivisionError", run.stderr)

    def test_log_elsewhere(self) -> None:
        run = self.run_client("failed", twistd=("-n", "--logfile", "some.log"))
        self.assertEqual(run.returncode, 1)
        self.assertEqual(run.stderr, b"kollacast-client: ended with FAILED\n")
        self.assertIn("ended with FAILED", (self.folder / "some.log").read_text())

    def test_log_to_standard_output_is_not_for_standard_output(self) -> None:
        run = self.run_client("image", twistd=("-n", "--logfile", "-"))
        self.assertEqual((run.returncode, run.stdout), (0, b"the image"))
        self.assertIn(b"ended with OK", run.stderr)

    def test_closed_streams(self) -> None:
        words = self.command("image", "--output", "image.tgz")
        run = subprocess.run(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words],
            cwd=self.folder,
            env=self.environment(),
            timeout=_PATIENCE_S,
        )
        self.assertEqual(run.returncode, 0)
        self.assertEqual((self.folder / "image.tgz").read_bytes(), b"the image")

    def test_terminal_is_no_place_for_an_image(self) -> None:
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        try:
            run = subprocess.run(
                self.command("image"),
                stdin=theirs,
                stdout=theirs,
                stderr=subprocess.PIPE,
                cwd=self.folder,
                env=self.environment(),
                timeout=_PATIENCE_S,
            )
        finally:
            os.close(theirs)
        self.assertEqual(run.returncode, 2)
        self.assertIn(b"standard output: cannot take the image: is a terminal", run.stderr)

    def test_report(self) -> None:
        run = self.run_client("partial", "--report", "report.json")
        self.assertEqual(run.returncode, 4)
        self.assertEqual(
            json.loads((self.folder / "report.json").read_text()),
            {"exit_status": 4, "message": "ended with PARTIAL", "task": "partial"},
        )

    def test_plain_progress(self) -> None:
        run = self.run_client("ok", "--progress", "auto")
        self.assertEqual(
            run.stderr.decode().splitlines(),
            ["kollacast-client: ok: 0 B, 0 repaired", "kollacast-client: ended with OK"],
        )

    def test_a_bar_where_there_is_no_terminal(self) -> None:
        """What only a terminal can show, nobody reads in a file."""
        run = self.run_client("ok", "--progress", "bar", TERM="xterm")
        self.assertEqual(
            run.stderr.decode().splitlines(),
            ["kollacast-client: ok: 0 B, 0 repaired", "kollacast-client: ended with OK"],
        )


class SignalTests(_ShellTestCase):
    def check(self, process: subprocess.Popen[bytes], number: int, line: str) -> None:
        process.send_signal(number)
        output, errors = process.communicate(timeout=_PATIENCE_S)
        self.assertEqual(errors.decode(), f"kollacast-client: {line}\n")
        self.assertEqual(process.returncode, -number)
        self.assertEqual(output, b"")

    def test_terminate(self) -> None:
        words = ("--output", "image.tgz", "--report", "report.json")
        process = self.start_client("waits", *words)
        self.check(process, signal.SIGTERM, "stopped: interrupted")
        report = json.loads((self.folder / "report.json").read_text())
        self.assertEqual(report["exit_status"], 1)
        self.assertLeft("report.json")

    def test_interrupt(self) -> None:
        self.check(self.start_client("waits"), signal.SIGINT, "stopped: interrupted")

    def test_engine_that_does_not_end(self) -> None:
        process = self.start_client("deaf", "--output", "image.tgz")
        self.check(process, signal.SIGTERM, "interrupted, and not ended within 0.5 s")
        self.assertLeft()

    def test_twice(self) -> None:
        process = self.start_client("deaf")
        process.send_signal(signal.SIGINT)
        self.check(process, signal.SIGINT, "interrupted, and not ended within 0.5 s")

    def test_thread_in_a_write_that_nobody_takes(self) -> None:
        process = self.start_client("stuck")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        # standard output is not read before the process has ended
        self.assertEqual(process.wait(_PATIENCE_S), -signal.SIGTERM)
        self.assertEqual(process.stderr.read(), b"kollacast-client: stopped: interrupted\n")

    def test_before_the_reactor_runs(self) -> None:
        """An interrupt finds no handler yet: still no traceback, still that signal's death."""
        code = (
            "import sys, time; from kollacast.command.client_options import ClientOptions; "
            "ClientOptions().parseOptions(['127.0.0.1', 'h', '--output', 'image']);"
            "print('parsed', flush=True); time.sleep(600)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env=self.environment(),
        )
        self.addCleanup(self._end, process)
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), b"parsed\n")
        self.check(process, signal.SIGINT, "interrupted")
        self.assertLeft()


class DaemonTests(_ShellTestCase):
    def test_standard_streams_are_missing(self) -> None:
        run = self.run_client("ok", twistd=())
        self.assertEqual(run.returncode, 2)
        self.assertIn(b"a daemon has no standard output: give --output", run.stderr)
        self.assertLeft()

    def test_daemon(self) -> None:
        run = self.run_client("image", "--output", "image.tgz", "--report", "r.json", twistd=())
        self.assertEqual((run.returncode, run.stdout, run.stderr), (0, b"", b""))
        log = self.folder / "twistd.log"
        until = time.monotonic() + _PATIENCE_S
        while "Server Shut Down" not in (log.read_text() if log.exists() else ""):
            self.assertLess(time.monotonic(), until, "the daemon does not end")
            time.sleep(0.05)
        self.assertEqual((self.folder / "image.tgz").read_bytes(), b"the image")
        self.assertIn("ended with OK", log.read_text())
        self.assertLeft("image.tgz", "r.json", "twistd.log")
