"""Which packets a client waits for: as a set has it, in a part of the memory."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kollacast.sending.owed import Owed
from tests.vectors import PROPERTY

_SEQS = st.lists(st.integers(0, 5000), max_size=30)


class OwedTests(SynchronousTestCase):
    @PROPERTY
    @given(st.lists(st.tuples(st.sampled_from(("update", "discard", "forget", "clear")), _SEQS)))
    def test_as_a_set_has_it(self, steps: list[tuple[str, list[int]]]) -> None:
        owed, expected = Owed(), set[int]()
        for word, seqs in steps:
            if word == "update":
                owed.update(seqs)
                expected.update(seqs)
            elif word == "discard":
                owed.discard(seqs)
                expected.difference_update(seqs)
            elif word == "clear":
                owed.clear()
                expected.clear()
            elif seqs:
                # All that are as old are done; of the others it may know less, and not more.
                owed.forget(seqs[0])
                expected = {seq for seq in expected if seq >> 10 >= seqs[0] >> 10}
            every = range(5001)
            self.assertEqual(owed.without(every), [s for s in every if s not in expected])
            self.assertTrue(owed or not expected)

    def test_it_takes_little_and_gives_it_back(self) -> None:
        owed = Owed()
        for first in range(0, 100_000, 10_000):
            owed.update(range(first, first + 10_000, 20))
            owed.forget(first)
            self.assertLess(sum(map(sys.getsizeof, owed._pages.values())), 14_000)
        owed.clear()
        self.assertFalse(owed)
