"""A test case on a network in memory."""

from __future__ import annotations

import contextlib

from twisted.trial.unittest import TestCase

from tests.simulation.fabric import Fabric
from tests.simulation.multicast import memory_sockets


class MemoryTestCase(TestCase):
    """What the tests of both cycles share."""

    def setUp(self) -> None:
        sockets = contextlib.ExitStack()
        sockets.enter_context(memory_sockets())
        self.addCleanup(sockets.close)

    def assert_all_gone(self, network: Fabric) -> None:
        """Whatever the runs have opened is closed, a few seconds after their end."""
        network.run_for(10.0)
        self.assertEqual(network.leftovers(), [])
