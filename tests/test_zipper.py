"""The zipper: who waits for whom along a chain, and that its ends are no-ops."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial import unittest

from kollacast.sending.zipper import Zipper


def _chain(members: list[Zipper[Any]]) -> None:
    for parent, child in pairwise(members):
        parent.attach(child)


class _Member:
    """A member that goes through phase after phase, and notes each of its steps."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.zipper: Zipper[str] = Zipper()
        self._log = log
        self._own_part: list[Deferred[None]] = []
        Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        while True:
            value = await self.zipper.wait_parent()
            self._log.append(f"{self.name} begins {value}")
            self.zipper.release_child(value)
            part: Deferred[None] = Deferred()
            self._own_part.append(part)
            await part
            self._log.append(f"{self.name} is through with {value}")
            await self.zipper.wait_child()
            self._log.append(f"{self.name} ends {value}")
            self.zipper.release_parent()

    def finish_own_part(self) -> None:
        self._own_part.pop(0).callback(None)


class Chain(unittest.SynchronousTestCase):
    """A root with two members below it."""

    def setUp(self) -> None:
        self.log: list[str] = []
        self.root: Zipper[str] = Zipper()
        self.parent, self.child = _Member("parent", self.log), _Member("child", self.log)
        _chain([self.root, self.parent.zipper, self.child.zipper])

    def test_a_phase_runs_down_the_chain_and_back_up(self) -> None:
        self.root.release_child("one")
        barrier = self.root.wait_child()
        self.assertEqual(self.log, ["parent begins one", "child begins one"])
        self.child.finish_own_part()
        self.assertNoResult(barrier)
        self.parent.finish_own_part()
        self.assertIsNone(self.successResultOf(barrier))
        self.assertEqual(
            self.log[2:],
            [
                "child is through with one",
                "child ends one",
                "parent is through with one",
                "parent ends one",
            ],
        )

    def test_the_parent_waits_for_its_child(self) -> None:
        self.root.release_child("one")
        barrier = self.root.wait_child()
        self.parent.finish_own_part()
        self.assertNoResult(barrier)
        self.assertNotIn("parent ends one", self.log)
        self.child.finish_own_part()
        self.assertIsNone(self.successResultOf(barrier))
        self.assertEqual(self.log[-2:], ["child ends one", "parent ends one"])

    def test_phases_follow_one_another_in_order(self) -> None:
        self.root.release_child("one")
        self.root.release_child("two")
        first, second = self.root.wait_child(), self.root.wait_child()
        self.child.finish_own_part()
        self.parent.finish_own_part()
        self.assertIsNone(self.successResultOf(first))
        self.assertNoResult(second)
        self.child.finish_own_part()
        self.parent.finish_own_part()
        self.assertIsNone(self.successResultOf(second))
        self.assertEqual(
            [line for line in self.log if "ends" in line],
            ["child ends one", "parent ends one", "child ends two", "parent ends two"],
        )


class Ends(unittest.SynchronousTestCase):
    def test_a_lone_member_s_calls_are_no_ops(self) -> None:
        alone: Zipper[str] = Zipper()
        alone.release_child("one")
        self.assertIsNone(self.successResultOf(alone.wait_child()))
        self.assertIsNone(self.successResultOf(alone.wait_child()))
        alone.release_parent()
        self.assertNoResult(alone.wait_parent())

    def test_the_root_s_parent_and_the_last_one_s_child(self) -> None:
        root: Zipper[str] = Zipper()
        last: Zipper[str] = Zipper()
        _chain([root, last])
        root.release_parent()
        last.release_child("one")
        self.assertIsNone(self.successResultOf(last.wait_child()))
        self.assertNoResult(root.wait_child())

    def test_a_phase_that_began_before_there_was_a_child_waits_for_none(self) -> None:
        parent: Zipper[str] = Zipper()
        child: Zipper[str] = Zipper()
        parent.release_child("one")
        parent.attach(child)
        parent.release_child("two")
        self.assertIsNone(self.successResultOf(parent.wait_child()))
        second = parent.wait_child()
        self.assertNoResult(second)
        self.assertEqual(self.successResultOf(child.wait_parent()), "two")
        child.release_parent()
        self.assertIsNone(self.successResultOf(second))

    def test_a_chain_has_no_forks(self) -> None:
        one, two, three = Zipper[str](), Zipper[str](), Zipper[str]()
        _chain([one, two])
        with self.assertRaises(AssertionError):
            one.attach(three)
        with self.assertRaises(AssertionError):
            three.attach(two)


class Tokens(unittest.SynchronousTestCase):
    """A release is a token: it is kept until somebody waits, and taken in order."""

    def setUp(self) -> None:
        self.parent: Zipper[int] = Zipper()
        self.child: Zipper[int] = Zipper()
        self.parent.attach(self.child)

    def test_values_come_in_the_order_of_their_release(self) -> None:
        waiting = self.child.wait_parent()
        for value in range(4):
            self.parent.release_child(value)
        values = [waiting, *(self.child.wait_parent() for _ in range(3))]
        self.assertEqual([self.successResultOf(value) for value in values], [0, 1, 2, 3])

    def test_each_release_lets_one_wait_go(self) -> None:
        self.child.release_parent()
        first, second = self.parent.wait_child(), self.parent.wait_child()
        self.assertIsNone(self.successResultOf(first))
        self.assertNoResult(second)
        self.child.release_parent()
        self.assertIsNone(self.successResultOf(second))
