"""Runs of the tests at the same time, on one machine, do not take each other's ports."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tests.processes
from tests.processes import CHECKOUT, free_port

# A run that has been given a port, and has not begun to use it.
_OTHER_RUN = """
import tests.processes, sys
tests.processes._PORTS = (int(sys.argv[1]), int(sys.argv[1]) + 1)
print(tests.processes.free_port(), flush=True)
sys.stdin.read()
"""


class FreePortTests(SynchronousTestCase):
    """A port is given to one test of one run."""

    def _let_choose(self, number: int) -> None:
        """Leave but one port to choose."""
        self.patch(tests.processes, "_PORTS", (number, number + 1))
        self.patch(tests.processes, "_ATTEMPTS", 3)

    def test_the_kernel_gives_it_to_nobody(self) -> None:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        least, most = map(int, text.split())
        self.assertFalse(least <= free_port() <= most)

    def test_no_port_that_is_in_use(self) -> None:
        used = free_port()
        tests.processes._claims.pop().close()
        self._let_choose(used)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(type=kind) as user:
                user.bind(("", used))
                self.assertRaises(OSError, free_port)
        self.assertEqual(free_port(), used)
        # and once it is given away, it is not given to another test
        self.assertRaises(OSError, free_port)

    def test_another_run(self) -> None:
        number = free_port()
        tests.processes._claims.pop().close()
        with subprocess.Popen(
            [sys.executable, "-c", _OTHER_RUN, str(number)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout is not None
            self.assertEqual(other.stdout.readline(), f"{number}\n")
            self._let_choose(number)
            self.assertRaises(OSError, free_port)
            other.communicate("")
        self.assertEqual(free_port(), number)
