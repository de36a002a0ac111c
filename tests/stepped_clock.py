"""A time of day that a test sets while a process runs, as NTP does; for that process alone.

Python runs ``sitecustomize`` before anything else, which so is the first to see the module `time`.
"""

from __future__ import annotations

from pathlib import Path

from tests.processes import CHECKOUT

_CUSTOM = """
import time

_real_s, _real_ns = time.time, time.time_ns


def _offset_s():
    with open({path!r}) as file:
        return int(file.read())


time.time = lambda: _real_s() + _offset_s()
time.time_ns = lambda: _real_ns() + _offset_s() * 10**9
"""


class SteppedClock:
    """The time of day of the processes that are given `env`; its files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._path = folder / "offset"
        self._offset_s = 0
        self.step(0)
        (folder / "sitecustomize.py").write_text(_CUSTOM.format(path=str(self._path)))
        self.env = {"PYTHONPATH": f"{folder}:{CHECKOUT}"}

    def step(self, by_s: int) -> None:
        """Set the clock, forward or back."""
        self._offset_s += by_s
        new = self._path.with_suffix(".new")
        new.write_text(str(self._offset_s))
        new.replace(self._path)
