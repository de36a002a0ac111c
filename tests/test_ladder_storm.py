"""Seeded sessions like those of the other storm, whose image can be read again.

So whoever is slow, or loses a connection, goes on by itself; the truths are the same.
"""

from __future__ import annotations

from functools import partial
from unittest import mock

from tests import test_conversation
from tests.memory import MemorySource, MemoryTestCase
from tests.test_conversation import _Storm


class LadderStormTests(MemoryTestCase):
    """A failure names its seed, and ``_storm(seed)`` is that session again."""

    def test_whatever_happens_the_outcomes_tell_the_truth(self) -> None:
        for seed in range(1000, 1100):
            storm = _storm(seed)
            try:
                storm.run()
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error}") from error
            self.assertEqual((seed, storm.faults()), (seed, []))


def _storm(seed: int) -> _Storm:
    source = partial(MemorySource, identity="file")
    with mock.patch.object(test_conversation, "MemorySource", source):
        return _Storm(seed)
