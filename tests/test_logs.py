"""The log: every call has a name and a format, and every line is whole, as text and as JSON."""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.logger import LogEvent, Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from kollacast.command import logs
from kollacast.command.log_lines import KEYS, Context, json_of, text_of
from kollacast.command.logs import FileObserver, StderrObserver
from kollacast.command.streams import Console
from tests.simulation.links import Weather
from tests.simulation.network import Network
from tests.simulation.testcase import MemoryTestCase

_CHECKOUT = Path(__file__).resolve().parents[1]
_LEVELS = {"debug", "info", "warn", "error", "critical", "failure"}
#: What a line of JSON has a key for, whether its text names it or not.
_CONTEXT = {"event", "host", "buffer", "failure", "level"}
#: Where loggers and levels are passed on, and names come from those who call.
_OWN = "kollacast/command/logs.py"


class _Call:
    """One call of a logger in the source."""

    def __init__(self, path: str, node: ast.Call) -> None:
        assert isinstance(node.func, ast.Attribute)
        self.where = f"{path}:{node.lineno}"
        self.level = "critical" if node.func.attr == "failure" else node.func.attr
        first = node.args[0] if node.args else None
        #: None where it is no literal.
        self.format = str(first.value) if isinstance(first, ast.Constant) else None
        self.keywords = {word.arg: word.value for word in node.keywords}

    @property
    def event(self) -> str | None:
        value = self.keywords.get("event")
        return str(value.value) if isinstance(value, ast.Constant) else None


def _sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(_CHECKOUT.glob("kollacast/**/*.py")):
        yield str(path.relative_to(_CHECKOUT)), ast.parse(path.read_text("utf-8"))


def _calls() -> Iterator[_Call]:
    for path, tree in _sources():
        for node in ast.walk(tree):
            if (
                path != _OWN
                and isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_log"
            ):
                yield _Call(path, node)


def _announced() -> Iterator[str]:
    """The events that are announced rather than logged."""
    for _path, tree in _sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else None
            name = node.func.id if isinstance(node.func, ast.Name) else name
            told = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if name in ("announce", "_announce", "_made") and isinstance(told, str):
                yield told


class CallTests(SynchronousTestCase):
    """All log calls of the package, as they stand in the source."""

    def test_there_is_one_way_to_log(self) -> None:
        """A module's logger is called `_log`, so that the tests below see every call."""
        for path, tree in _sources():
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Logger":
                    self.assertTrue(path == _OWN or _is_assigned_to_log(tree, node), path)
                if isinstance(node, ast.ImportFrom) and node.module == "twisted.python":
                    self.assertNotIn("log", [alias.name for alias in node.names], path)

    def test_each_has_a_format_and_a_name(self) -> None:
        calls = list(_calls())
        self.assertGreater(len(calls), 40)
        for call in calls:
            self.assertIn(call.level, _LEVELS, call.where)
            assert call.format is not None, (
                f"{call.where}: the format must be a literal with fields"
            )
            self.assertNotRegex(call.format, r"%[sdrf]", call.where)
            self.assertRegex(
                call.event or "",
                r"^[a-z]+(-[a-z]+)*$",
                f"{call.where}: give it event=, a name that stays, and a row in docs/reading.md",
            )

    def test_what_is_given_is_said(self) -> None:
        for call in _calls():
            assert call.format is not None, call.where
            fields = {name for _, name, _, _ in string.Formatter().parse(call.format) if name}
            given = {word for word in call.keywords if word is not None}
            self.assertEqual(fields - given, set(), f"{call.where}: nobody gives these")
            self.assertEqual(given - fields - _CONTEXT, set(), f"{call.where}: not said")

    def test_the_page_has_each(self) -> None:
        """The table of docs/reading.md has all events at their levels, in order, and no other."""
        page = (_CHECKOUT / "docs" / "reading.md").read_text("utf-8")
        rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \| \S", page, re.MULTILINE)
        shown = [(event, level) for event, levels in rows for level in levels.split(", ")]
        logged = {(str(call.event), call.level) for call in _calls()}
        names = [event for event, _ in rows]
        self.assertEqual(names, sorted(set(names)))
        self.assertEqual({event for event, _ in logged} | set(_announced()), set(names))
        self.assertLessEqual(logged, set(shown))
        self.assertEqual(
            {event for event, _ in set(shown) - logged}, set(_announced()), "levels that are not"
        )

    def test_the_page_has_the_keys(self) -> None:
        page = (_CHECKOUT / "docs" / "reading.md").read_text("utf-8")
        [example] = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
        self.assertEqual(tuple(json.loads(example)), KEYS)
        [table] = re.findall(r"^\| key \|.*?\n\n", page, re.DOTALL | re.MULTILINE)
        self.assertEqual(tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)), KEYS)


def _is_assigned_to_log(tree: ast.Module, call: ast.Call) -> bool:
    return any(
        isinstance(node, ast.Assign)
        and node.value is call
        and ast.unparse(node.targets[0]) == "_log"
        for node in tree.body
    )


def _event(level: Any, text: str, **fields: Any) -> LogEvent:
    made: list[LogEvent] = []
    observer: Any = made.append
    Logger("kollacast.somewhere", observer=observer).emit(level, text, **fields)
    return made[0]


class JsonTests(SynchronousTestCase):
    """An event as an object."""

    def read(self, event: LogEvent, **context: Any) -> dict[str, Any]:
        line = json_of(event, Context("kollacast-server", **context))
        self.assertTrue(line.isascii() and line.isprintable(), line)
        read: dict[str, Any] = json.loads(line)
        self.assertEqual(tuple(read), KEYS)
        return read

    def test_all_keys(self) -> None:
        event = _event(
            LogLevel.warn, "{what} of {host}", event="client-out", what="end", host="h", buffer=7
        )
        event["log_time"] = 1795853924.1249
        self.assertEqual(
            self.read(event, session=lambda: "0f1e"),
            {
                "time": "2026-11-28T08:18:44.124Z",
                "level": "warn",
                "program": "kollacast-server",
                "session": "0f1e",
                "host": "h",
                "buffer": 7,
                "event": "client-out",
                "text": "end of h",
                "fields": {"what": "end"},
            },
        )

    def test_the_host_itself(self) -> None:
        event = _event(LogLevel.info, "it is so", event="resumed")
        read = self.read(event, host="host-3")
        self.assertEqual((read["host"], read["session"], read["buffer"]), ("host-3", None, None))

    def test_hostile_text(self) -> None:
        hostile = 'a"}\n{"event": "outcome"}\x1b[2J\u2028\u202e\x85\udce9\r\x00'
        event = _event(LogLevel.info, "client {name}", event="client-in", name=hostile)
        read = self.read(event)
        self.assertEqual(read["event"], "client-in")
        self.assertEqual(read["fields"]["name"], hostile)

    def test_whatever_it_is_given(self) -> None:
        class Odd:
            def __repr__(self) -> str:
                return "odd"

        event = _event(
            LogLevel.info, "{a} {b} {c}", event="odd", a=float("nan"), b=Odd(), c=b"\xff"
        )
        fields = self.read(event)["fields"]
        self.assertEqual((fields["a"], fields["b"]), (None, "odd"))

    def test_an_error(self) -> None:
        try:
            raise ZeroDivisionError("by\nzero")
        except ZeroDivisionError:
            failure = Failure()
        event = _event(
            LogLevel.critical, "while ending", event="ending-failed", log_failure=failure
        )
        read = self.read(event)
        self.assertEqual(read["text"], "while ending: ZeroDivisionError: by\nzero")
        self.assertEqual(read["fields"], {})
        read = json.loads(json_of(event, Context(), traceback=True))
        self.assertIn("Traceback", read["fields"]["traceback"])

    def test_of_a_library(self) -> None:
        event = _event(LogLevel.error, "{what} has failed", what="something")
        event["log_namespace"] = "twisted.internet"
        read = self.read(event)
        self.assertEqual((read["event"], read["fields"]), ("message", {}))
        self.assertEqual(text_of(event), "something has failed")


class _Console(Console):
    def __init__(self) -> None:
        super().__init__()
        self.program = "kollacast-client"
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


class _LogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.console = _Console()
        for name, value in (
            ("console", self.console),
            ("_context", Context()),
            ("_is_json", False),
            ("_path", ""),
        ):
            self.patch(logs, name, value)

    @property
    def lines(self) -> list[str]:
        return self.console.text.splitlines()


class ObserverTests(_LogCase):
    """Where lines go."""

    def test_text(self) -> None:
        observer = StderrObserver(self.console, False)
        observer(_event(LogLevel.info, "client {name}", event="client-in", name="a\x1b\nb"))
        observer(_event(LogLevel.debug, "nothing", event="client-in"))
        self.assertEqual(self.console.text, "kollacast-client: client a\\x1b b\n")

    def test_json(self) -> None:
        logs.write_as("json", "kollacast-client", "host-1", None)
        logs.tell_session(lambda: "0f1e")
        StderrObserver(self.console, False)(
            _event(LogLevel.info, "client {name}", event="client-in", name="a\x1b\nb")
        )
        logs.announce("outcome", "no luck", LogLevel.error)
        self.console.write_line("--port: wrong")
        first, second, third = map(json.loads, self.lines)
        self.assertEqual((first["event"], first["host"]), ("client-in", "host-1"))
        self.assertEqual((second["event"], second["level"]), ("outcome", "error"))
        self.assertEqual((second["text"], second["session"]), ("no luck", "0f1e"))
        self.assertEqual((third["event"], third["text"]), ("stopped", "--port: wrong"))

    def test_what_is_announced_is_told_once(self) -> None:
        seen: list[LogEvent] = []
        observer: Any = seen.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        logs.announce("outcome", "all is well")
        for event in seen:
            StderrObserver(self.console, True)(event)
        self.assertEqual(self.lines, ["kollacast-client: all is well"])

    def test_a_file(self) -> None:
        path = Path(self.mktemp()).absolute()
        observer = FileObserver(str(path), False)
        observer(_event(LogLevel.info, "one", event="client-in"))
        observer.rotate()
        observer(_event(LogLevel.info, "two", event="client-in"))
        observer(_event(LogLevel.debug, "three", event="client-in"))
        texts = [json.loads(file.read_text())["text"] for file in (Path(f"{path}.1"), path)]
        self.assertEqual(texts, ["one", "two"])

    def test_a_file_that_takes_nothing(self) -> None:
        observer = FileObserver(str(Path(self.mktemp()).absolute()), False)
        for name in ("write", "flush"):
            self.patch(observer._file, name, self._fail)
        observer(_event(LogLevel.info, "one", event="client-in"))

    def _fail(self, *args: object) -> None:
        raise OSError(28, "No space left on device")


class QuietTests(MemoryTestCase):
    """However long an image is, it makes no more lines."""

    def lines_of(self, buffers: int) -> list[str]:
        seen: list[LogEvent] = []
        observer: Any = seen.append
        globalLogPublisher.addObserver(observer)
        try:
            network = Network(1, Weather(loss=0.05))
            server = network.serve(bytes(buffers * 1000), clients=3, buffer_packets=10)
            for _ in range(3):
                network.join()
            network.run_until(lambda: server.outcome is not None)
            assert server.outcome is not None
            self.assertGreater(server.outcome.report["packets_repaired"], 0)
        finally:
            globalLogPublisher.removeObserver(observer)
        return [
            str(event.get("event"))
            for event in seen
            if str(event["log_namespace"]).startswith("kollacast")
            and event["log_level"] >= LogLevel.info
        ]

    def test_nothing_once_a_buffer(self) -> None:
        short = self.lines_of(2)
        self.assertIn("client-in", short)
        self.assertEqual(self.lines_of(60), short)
