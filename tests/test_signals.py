"""Tests that send signals hold however the run of the tests was started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.processes import CHECKOUT

_NUMBERS = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM]
_NUMBERS += [signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXFSZ]

#: Those that a program can name. The C library keeps the first two of real time to itself, and
#: nobody can say what it has of them from whoever started it.
_NAMEABLE = sum(1 << (number - 1) for number in signal.valid_signals())

# Starts a program that inherits these signals as argv[1] says.
_STARTER = f"""
import os, signal, sys
for number in {[int(number) for number in _NUMBERS]}:
    if sys.argv[1] == "ignored":
        signal.signal(number, signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[2:]])
"""

# Stands for a run of the tests: is sent the signals of argv[1:], and has a child say what it has.
_RUN = """
import os, subprocess, sys
import tests
for number in sys.argv[1:]:
    os.kill(os.getpid(), int(number))
print(subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True).stdout)
"""


class InheritanceTests(SynchronousTestCase):
    """What a child of a test has of the signals that the test run was started with."""

    def _childs(self, how: str, *sent: int) -> dict[str, int]:
        """The masks of a child, by their names in proc(5), of the signals that have a name."""
        run = subprocess.run(
            [sys.executable, "-c", _STARTER, how, _RUN, *map(str, sent)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )
        self.assertEqual(run.returncode, 0)
        masks = re.findall(r"^(Sig(?:Blk|Ign)):\s*(\w+)$", run.stdout, re.MULTILINE)
        return {name: int(mask, 16) & _NAMEABLE for name, mask in masks}

    def test_blocked(self) -> None:
        self.assertEqual(self._childs("blocked"), {"SigBlk": 0, "SigIgn": 0})

    def test_ignored(self) -> None:
        """In a child they are not; the run itself goes on through them, as it was told to."""
        sent = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
        self.assertEqual(self._childs("ignored", *sent), {"SigBlk": 0, "SigIgn": 0})
