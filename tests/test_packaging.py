"""Every way to install the package: twistd finds both commands, and nothing is missing.

Each environment gets Twisted and the other dependencies as copies of those that run this test, so
that nothing is downloaded and the plugins stand where a real installation has them.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import subprocess
import tempfile
import venv
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_CHECKOUT = Path(__file__).parent.parent
_PROJECT = (_CHECKOUT / "pyproject.toml").read_text("utf-8")
[_LISTED] = re.findall(r"^dependencies = \[\n(.*?)^\]", _PROJECT, re.DOTALL | re.MULTILINE)
_DEPENDENCIES = tuple(re.findall(r'^ *"([\w-]+)', _LISTED, re.MULTILINE))
_BUILD_TOOLS = ("setuptools", "pip")
_COMMANDS = ("kollacast-server", "kollacast-client")
_PATIENCE_S = 600.0

_TWISTD = """
import sys
from twisted.scripts.twistd import run
sys.exit(run())
"""

_WHERE = "import kollacast.server, kollacast.client; print(kollacast.__file__)"


def _with_dependencies(names: Iterable[str], found: set[str]) -> set[str]:
    """The names of these distributions and of all that they need here."""
    for name in names:
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            needed = distribution(key).requires or []
        except PackageNotFoundError:
            continue  # of another platform or an extra that is not installed
        found.add(key)
        _with_dependencies((re.split(r"[\s;<>=!~\[(]", line)[0] for line in needed), found)
    return found


def _copy_distributions(names: Iterable[str], folder: Path) -> None:
    """Copy the installed files of these distributions to another site-packages folder."""
    for name in sorted(_with_dependencies(names, set())):
        root = Path(str(distribution(name).locate_file(""))).resolve()
        for source in _files(name, root):
            # a script is outside, and a name that two distributions claimed may be gone with one
            if not source.is_relative_to(root) or not source.is_file():
                continue
            inside = source.relative_to(root)
            if not {"__pycache__", "test"} & set(inside.parts):
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / inside)


def _files(name: str, root: Path) -> list[Path]:
    """The files that a distribution has installed, those in `root` at least."""
    here = distribution(name)
    if here.read_text("RECORD") is not None:
        return [Path(str(file.locate())).resolve() for file in here.files or []]
    # an older pip installs crcmod, which has no wheel, in the way of old and without that list
    packages = (here.read_text("top_level.txt") or "").split()
    return [path for package in packages for path in (root / package).rglob("*")]


@functools.cache
def _template() -> Path:
    """What a site-packages folder holds before kollacast does; it is removed at exit."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    _copy_distributions((*_DEPENDENCIES, *_BUILD_TOOLS), folder)
    return folder


class PackagingTests(SynchronousTestCase):
    """One environment for each way."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()
        self.source = self.folder / "source"
        for name in ("kollacast", "twisted"):
            shutil.copytree(
                _CHECKOUT / name,
                self.source / name,
                ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"),
            )
        for name in ("pyproject.toml", "README.md"):
            if (_CHECKOUT / name).exists():
                shutil.copy(_CHECKOUT / name, self.source / name)
        self.python = self._make_environment()

    def _make_environment(self) -> Path:
        home = self.folder / "environment"
        venv.create(home, symlinks=True)
        python = home / "bin" / "python"
        site_packages = self._output(
            [python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        )
        shutil.copytree(_template(), site_packages.strip(), dirs_exist_ok=True)
        self.twistd = home / "bin" / "twistd"
        self.twistd.write_text(_TWISTD)
        return python

    def _output(self, words: list[object], **environment: str) -> str:
        """Standard output of a command that is run far from the sources and has to succeed."""
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        run = subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**clean, **environment},
            timeout=_PATIENCE_S,
        )
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        return run.stdout

    def _install(self, *how: object) -> None:
        offline = ("--no-deps", "--no-build-isolation", "--no-index")
        self._output([self.python, "-m", "pip", "install", "--quiet", *offline, *how])

    def _commands(self, **environment: str) -> list[str]:
        """Which of the two commands twistd offers and can load."""
        offered = self._output([self.python, self.twistd, "--help"], **environment).split()
        found = [name for name in _COMMANDS if name in offered]
        for name in found:
            usage = self._output([self.python, self.twistd, "-n", name, "--help"], **environment)
            self.assertIn(f"Usage: twistd -n {name} [options] <local_ip>", usage)
        return found

    def _home(self, **environment: str) -> Path:
        """The folder that both ends are imported from."""
        [line] = self._output([self.python, "-c", _WHERE], **environment).splitlines()
        return Path(line).parent

    def test_not_installed(self) -> None:
        self.assertEqual(self._commands(), [])

    def test_install(self) -> None:
        self._install(self.source)
        self.assertEqual(self._commands(), list(_COMMANDS))
        home = self._home()
        self.assertTrue(home.is_relative_to(self.python.parent.parent), home)
        modules = {path.relative_to(home) for path in home.rglob("*.py")}
        package = self.source / "kollacast"
        self.assertEqual(modules, {path.relative_to(package) for path in package.rglob("*.py")})
        page = "from kollacast.status.page import page; print(len(page()[0]))"
        self.assertGreater(int(self._output([self.python, "-c", page])), 10_000)
        # the plugin's folder is Twisted's own, and must outlive the plugin
        self._output([self.python, "-m", "pip", "uninstall", "--quiet", "--yes", "kollacast"])
        self.assertEqual(self._commands(), [])

    def test_install_editable(self) -> None:
        self._install("-e", self.source)
        self.assertEqual(self._commands(), list(_COMMANDS))
        self.assertEqual(self._home(), self.source / "kollacast")

    def test_checkout(self) -> None:
        self.assertEqual(self._commands(PYTHONPATH=str(self.source)), list(_COMMANDS))
        self.assertEqual(self._home(PYTHONPATH=str(self.source)), self.source / "kollacast")
