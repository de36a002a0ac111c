"""How much of the others' time one client may take, in all; and whom the stream waits for."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kollacast.sending.patience import HoldUp, Patience

_MANY = [f"host{number}" for number in range(1000)]


class PatienceTests(SynchronousTestCase):
    """What is charged, and who is out for it."""

    def test_one_of_a_thousand(self) -> None:
        """A stall costs the others a sixth of a second, early in the run."""
        patience = Patience(5.0)
        patience.charge(["host7"], 0.17)
        self.assertFalse(patience.is_anybody_beyond(1.0, 1000))
        patience.charge(["host7"], 0.02)
        self.assertTrue(patience.is_anybody_beyond(1.0, 1000))
        self.assertEqual(
            patience.verdicts(1.0, _MANY), {"host7": "it has taken 0.19 s of the others' time"}
        )

    def test_it_grows_with_the_run_up_to_the_most(self) -> None:
        patience = Patience(5.0)
        for elapsed_s, clients, allowance_s in (
            (0.0, 2, 0.5),
            (0.0, 1000, 0.15),
            (10.0, 2, 0.8),
            (10.0, 1000, 0.45),
            (1e4, 2, 5.0),
        ):
            self.assertAlmostEqual(patience.allowance_s(elapsed_s, clients), allowance_s)
        self.assertEqual(Patience(1.0).allowance_s(0.0, 1000), 0.1)
        self.assertEqual(Patience(0.05).allowance_s(0.0, 2), 0.05)

    def test_those_who_are_waited_for_together_share_it(self) -> None:
        patience = Patience(5.0)
        patience.charge(_MANY[:10], 1.0)
        self.assertEqual(patience.verdicts(0.0, _MANY), {})
        patience.charge(_MANY[:10], 1.0)
        self.assertEqual(list(patience.verdicts(0.0, _MANY)), _MANY[:10])

    def test_where_most_are_slow_nobody_is(self) -> None:
        patience = Patience(5.0)
        names = ["a", "b", "c", "d"]
        for name, seconds in zip(names, (1.0, 1.1, 1.3, 3.9), strict=True):
            patience.charge([name], seconds)
        self.assertEqual(patience.verdicts(1.0, names), {})
        patience.charge(["d"], 1.0)
        self.assertEqual(list(patience.verdicts(1.0, names)), ["d"])

    def test_one_of_two(self) -> None:
        patience = Patience(5.0)
        patience.charge(["a"], 0.6)
        self.assertEqual(list(patience.verdicts(1.0, ["a", "b"])), ["a"])
        # Alone it holds up nobody.
        self.assertEqual(patience.verdicts(1.0, ["a"]), {})

    def test_who_has_left(self) -> None:
        patience = Patience(5.0)
        patience.charge(["a"], 3.0)
        patience.condemn("a", "too slow")
        self.assertEqual(patience.verdicts(1.0, ["b", "c"]), {})

    def test_it_is_not_forgotten_over_a_connection(self) -> None:
        patience = Patience(5.0)
        patience.charge(["a"], 3.0)
        self.assertEqual(list(patience.verdicts(1.0, ["a", "b"])), ["a"])
        self.assertEqual(list(patience.verdicts(2.0, ["a", "b"])), ["a"])

    def test_the_more_have_gone_the_more_the_next_one_may_take(self) -> None:
        """Twenty of forty hosts whose disks stall once need not all have a copy of their own."""
        patience = Patience(5.0)
        names = [f"host{number}" for number in range(40)]
        for name in names:
            patience.enter(name, name)
        out: set[str] = set()
        for name in names[:19]:
            patience.charge([name], 0.6)
            out |= patience.verdicts(10.0, names).keys()
            names = [name for name in names if name not in out]
        self.assertEqual(out, {"host0"})
        patience.charge(["host1"], 0.4)
        self.assertEqual(list(patience.verdicts(10.0, names)), ["host1"])

    def test_another_name_is_no_other_host(self) -> None:
        patience = Patience(5.0)
        for name in ("a", "b"):
            patience.enter(name, name)
        patience.charge(["a"], 0.6)
        self.assertEqual(list(patience.verdicts(1.0, ["a", "b"])), ["a"])
        patience.leave("a")
        patience.enter("A", "a")
        # By what it had taken it is out at once, and gets no more of it for that.
        self.assertEqual(list(patience.verdicts(1.0, ["A", "b"])), ["A"])
        self.assertEqual(patience.verdicts(20.0, ["A", "b"]), {})

    def test_one_that_is_condemned(self) -> None:
        patience = Patience(5.0)
        patience.condemn("a", "too slow")
        self.assertTrue(patience.is_anybody_beyond(0.0, 2))
        self.assertEqual(patience.verdicts(0.0, ["a", "b"]), {"a": "too slow"})
        self.assertEqual(patience.verdicts(0.0, ["a", "b"]), {})


class HoldUpTests(SynchronousTestCase):
    """Time that counts, and time that does not."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.patience = Patience(5.0)
        # Who has not answered.
        self.absent: set[str] = set()
        self.clients = 10
        self.is_busy = False
        self.hold_up = HoldUp(
            self.clock, self.patience, self._find, lambda: self.clients, lambda: self.is_busy
        )

    def _find(self, most: int) -> list[str] | None:
        return sorted(self.absent) if len(self.absent) <= most else None

    def begin(self, due_s: float = 1.0) -> None:
        """For an answer that has been due for so long."""
        self.hold_up.begin(self.clock.seconds() - due_s)

    def wait(self, seconds: float, step_s: float = 0.025) -> None:
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)
            self.hold_up.look()

    def taken_s(self, name: str) -> float:
        return self.patience._taken_s.get(name, 0.0)

    def test_one_is_waited_for(self) -> None:
        self.absent = {"a"}
        self.begin()
        self.wait(0.5)
        self.absent.clear()
        self.hold_up.end()
        self.wait(5.0)
        self.assertAlmostEqual(self.taken_s("a"), 0.5)

    def test_what_passes_between_looks_counts_too(self) -> None:
        self.absent = {"a"}
        self.begin()
        self.clock.advance(0.02)
        self.absent.clear()
        self.hold_up.end()
        self.assertAlmostEqual(self.taken_s("a"), 0.02)

    def test_an_answer_that_is_not_long_due(self) -> None:
        self.absent = {"a"}
        self.begin(due_s=0.02)
        self.wait(0.025)
        self.assertEqual(self.taken_s("a"), 0.0)
        self.wait(0.1)
        self.assertAlmostEqual(self.taken_s("a"), 0.02 + 0.125 - 0.05)

    def test_most_are_waited_for(self) -> None:
        """It is the server then, or the network."""
        self.absent = set("012345")
        self.begin()
        self.wait(1.0)
        self.absent = {"0"}
        self.wait(1.0)
        self.assertAlmostEqual(self.taken_s("0"), 0.975)
        self.assertEqual(self.taken_s("1"), 0.0)

    def test_many_of_very_many_are_waited_for(self) -> None:
        self.clients = 1000
        self.absent = set(map(str, range(17)))
        self.begin()
        self.wait(1.0)
        self.assertEqual(self.taken_s("0"), 0.0)

    def test_the_server_is_busy(self) -> None:
        self.absent = {"a"}
        self.is_busy = True
        self.begin()
        self.wait(1.0)
        self.assertEqual(self.taken_s("a"), 0.0)

    def test_the_server_was_stopped(self) -> None:
        """Of a time in which it could not hear anybody, no more counts than of a look."""
        self.absent = {"a"}
        self.begin()
        self.wait(30.0, step_s=30.0)
        self.assertAlmostEqual(self.taken_s("a"), 0.1)

    def test_nobody_is_waited_for(self) -> None:
        self.hold_up.look()
        self.hold_up.end()
        self.assertFalse(self.hold_up.is_on)
