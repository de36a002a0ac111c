"""The house is as docs/architecture.md says: every file on the map, every import pointing down."""

from __future__ import annotations

import ast
import graphlib
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_CHECKOUT = Path(__file__).resolve().parents[1]
_PAGE = _CHECKOUT / "docs" / "architecture.md"
#: The only modules that may take the reactor which runs; all others are handed one.
_COMMANDS = {"kollacast.command.server", "kollacast.command.client"}
#: The only modules that may take the time of day: of a version's record, and of certificates.
_DATES = {"kollacast.images.registry_sink", "kollacast.authority.__main__"}
_TIMES_OF_DAY = {
    "time.time",
    "time.time_ns",
    "time.gmtime",
    "time.localtime",
    "time.clock_gettime",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "datetime.datetime.now",
}
#: Streams of bytes, and who takes part in them.
_STREAMS = ("kollacast.sending", "kollacast.receiving")
_PEOPLE = ("kollacast.server", "kollacast.client")
#: What a floor without I/O may have of Twisted and of the system.
_PURE = {"twisted.internet.defer", "twisted.internet.interfaces", "twisted.python.failure"}
_IO = {"os", "select", "selectors", "subprocess", "threading", "time", "twisted", "asyncio"}


def _module(path: str) -> str:
    return path.removesuffix("/").removesuffix(".py").replace("/", ".")


def _read_map() -> dict[str, int]:
    """The floor of each module on the map."""
    floors: dict[str, int] = {}
    floor = None
    for line in _PAGE.read_text("utf-8").splitlines():
        if line.startswith("##"):
            heading = re.match(r"### Floor (\d):", line)
            floor = int(heading[1]) if heading else None
        row = re.match(r"\| `([^`]+)` \| \S", line)
        if row and floor is not None:
            module = _module(row[1])
            assert module not in floors, f"{module} is on the map twice"
            floors[module] = floor
    return floors


def _files() -> dict[str, Path]:
    """The source file of each module of the program; a package has its folder's name."""
    files = [*_CHECKOUT.glob("kollacast/**/*.py"), *_CHECKOUT.glob("twisted/plugins/*.py")]
    return {
        _module(str(path.relative_to(_CHECKOUT))).removesuffix(".__init__"): path for path in files
    }


def _imports(path: Path) -> Iterator[str]:
    """Every name that a file imports, in full, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _functions(module: str, path: Path) -> Iterator[str]:
    """Functions and methods of a file, as ``module.function`` and ``Class.method``."""
    tree = ast.parse(path.read_text("utf-8"))
    owners = [(module.rpartition(".")[2], tree.body)]
    owners += [(node.name, node.body) for node in tree.body if isinstance(node, ast.ClassDef)]
    for owner, body in owners:
        yield from (f"{owner}.{node.name}" for node in body if isinstance(node, ast.FunctionDef))


def _looks_at_the_time_of_day(path: Path) -> Iterator[str]:
    """How a file takes the time of day, as far as that can be read in it."""
    yield from (name for name in _imports(path) if name in _TIMES_OF_DAY)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in _TIMES_OF_DAY:
            yield ast.unparse(node)


class MapTests(SynchronousTestCase):
    """The map and the imports."""

    def setUp(self) -> None:
        self.floors = _read_map()
        self.files = _files()

    def _needs(self, module: str) -> set[str]:
        """The modules of the program that ``module`` imports."""
        found = set()
        for name in _imports(self.files[module]):
            known = name if name in self.files else name.rpartition(".")[0]
            if known in self.files:
                found.add(known)
        return found

    def test_every_module_is_on_the_map(self) -> None:
        self.assertEqual(set(self.floors), set(self.files))

    def test_imports_are_seen(self) -> None:
        self.assertLessEqual(
            {"kollacast.command.streams", "kollacast.command.server_options", "kollacast.server"},
            self._needs("kollacast.command.server"),
        )

    def test_imports_point_down(self) -> None:
        for module, floor in self.floors.items():
            for needed in self._needs(module):
                self.assertLessEqual(self.floors[needed], floor, f"{module} imports {needed}")

    def test_imports_make_no_circle(self) -> None:
        graph = {module: self._needs(module) - {module} for module in self.files}
        graphlib.TopologicalSorter(graph).prepare()

    def test_the_ends_do_not_know_each_other(self) -> None:
        pairs = (("server", "client"), ("sending", "receiving"))
        for one, other in (*pairs, *(pair[::-1] for pair in pairs)):
            for module in self.files:
                if module.startswith(f"kollacast.{one}."):
                    strangers = {
                        n for n in self._needs(module) if n.startswith(f"kollacast.{other}")
                    }
                    self.assertEqual(strangers, set(), module)

    def test_a_stream_does_not_know_who_takes_part(self) -> None:
        for module in self.files:
            if module.startswith(_STREAMS):
                people = {n for n in self._needs(module) if n.startswith(_PEOPLE)}
                self.assertEqual(people, set(), module)

    def test_lower_floors_know_no_io(self) -> None:
        for module, floor in self.floors.items():
            if floor > 1:
                continue
            for name in _imports(self.files[module]):
                if not any(name.startswith(f"{pure}.") for pure in _PURE):
                    self.assertNotIn(name.partition(".")[0], _IO, module)

    def test_only_the_wire_puts_bytes_together(self) -> None:
        """Above it a message is a value, and nobody knows how long a header is."""
        inner = {"structures.Tag", "structures.PACKET_HEADER_SIZE", "greeting.encode_json"}
        for module, path in self.files.items():
            if module.startswith("kollacast.wire."):
                continue
            names = set(_imports(path))
            self.assertEqual({f"kollacast.wire.{name}" for name in inner} & names, set(), module)
            if not module.startswith("kollacast.transport."):
                # There it is for what the kernel's calls are given.
                self.assertNotIn("struct", names, module)

    def test_only_the_commands_know_which_reactor_runs(self) -> None:
        taken = {
            module
            for module, path in self.files.items()
            if "twisted.internet.reactor" in _imports(path)
        }
        self.assertEqual(taken, _COMMANDS)


class TimeTests(SynchronousTestCase):
    """Nothing goes by the time of day but what is written for people."""

    def test_who_looks_at_the_time_of_day(self) -> None:
        found = {
            module for module, path in _files().items() if set(_looks_at_the_time_of_day(path))
        }
        self.assertEqual(found, _DATES)

    def test_a_look_is_seen(self) -> None:
        path = Path(self.mktemp())
        path.write_text("import time\nfrom time import time_ns\ntime.time()\n")
        self.assertEqual(set(_looks_at_the_time_of_day(path)), {"time.time", "time.time_ns"})


class PageTests(SynchronousTestCase):
    """What else the page shows of the code."""

    def test_state_diagrams(self) -> None:
        made = subprocess.run(
            [sys.executable, "scripts/state_diagram.py"],
            cwd=_CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(_CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertEqual(made.returncode, 0, made.stderr)
        marked = r"<!-- state diagram: .*?-->\n```mermaid\n.*?```\n"
        shown = re.findall(marked, _PAGE.read_text("utf-8"), re.DOTALL)
        self.assertEqual("".join(shown), made.stdout)

    def test_where_changes_begin(self) -> None:
        page = _PAGE.read_text("utf-8")
        [table] = re.findall(r"^## Where would you change …\n(.*?)^## ", page, re.DOTALL | re.M)
        named = re.findall(r"`((?:kollacast/)?\w+/\w+\.py)`", table)
        self.assertGreaterEqual(len(named), 10)
        for path in named:
            whole = _CHECKOUT / "kollacast" / path.removeprefix("kollacast/")
            self.assertTrue(whole.is_file(), path)

    def test_constants(self) -> None:
        """The table has every number of the modules that it names, and each is right."""
        rows = re.findall(
            r"^\| `([a-z_.]+)\.(_[A-Z_]+)` \| (\S+) \|", _PAGE.read_text("utf-8"), re.MULTILINE
        )
        shown = {(module, name): float(value) for module, name, value in rows}
        self.assertTrue(shown)
        actual = {
            (module, name): float(value)
            for module in {module for module, _ in shown}
            for name, value in vars(importlib.import_module(f"kollacast.{module}")).items()
            if re.fullmatch("_[A-Z][A-Z_]*", name) and isinstance(value, int | float)
        }
        self.assertEqual(shown, actual)

    def test_functions_of_the_hot_path(self) -> None:
        shown = re.findall(r" \| `(\w+\.\w+)` \|$", _PAGE.read_text("utf-8"), re.MULTILINE)
        self.assertTrue(shown)
        defined = {name for module, path in _files().items() for name in _functions(module, path)}
        self.assertLessEqual(set(shown), defined)
