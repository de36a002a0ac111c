"""Whom the rate follows, and whom it does not."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from twisted.trial.unittest import SynchronousTestCase

from kollacast.congestion import CongestionControl
from kollacast.congestion.control import FIRST_EPOCH, Epoch
from kollacast.congestion.trials import Trials
from kollacast.sending.followers import Followers

_GBIT = 1e9


class _Control:
    """Notes of whom it is told."""

    rate_bps: float | None = None
    epoch = FIRST_EPOCH

    def __init__(self) -> None:
        self.told: list[dict[Hashable, float]] = []
        self.forgotten: list[Hashable] = []

    def report(
        self,
        epoch: Epoch,
        sent_bps: float,
        packets: int,
        losses: Mapping[Hashable, float],
        bursts: Mapping[Hashable, float] | None = None,
    ) -> None:
        self.told.append(dict(losses))

    def forget(self, client: Hashable) -> None:
        self.forgotten.append(client)


class _TestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.control = _Control()
        self.slow: list[tuple[Hashable, str]] = []
        self.staying: set[Hashable] = set()

    def followers(
        self, clients: int, least_bps: float | None = None, control: CongestionControl | None = None
    ) -> Followers:
        return Followers(
            control or self.control,
            least_bps,
            lambda: clients,
            lambda client: client not in self.staying,
            lambda client, reason: self.slow.append((client, reason)),
        )


class LeastRateTests(_TestCase):
    """Who takes too little is never followed, and in the end served apart."""

    def test_a_port_of_1_mbit(self) -> None:
        followers = self.followers(4)
        losses: dict[Hashable, float] = {"a": 0.999, "b": 0.0, "c": 0.0, "d": 0.0}
        followers.report(FIRST_EPOCH, _GBIT, 4000, losses)
        self.assertEqual(self.slow, [])
        followers.report(FIRST_EPOCH, _GBIT, 4000, losses)
        self.assertEqual(self.slow, [("a", "it takes 1 Mbit/s, and 1e+02 are the least")])
        self.assertEqual(self.control.told, [{"b": 0.0, "c": 0.0, "d": 0.0}] * 2)

    def test_it_costs_the_others_no_rate(self) -> None:
        """Also where it claims to take a little less time and again."""
        followers = self.followers(2, control=Trials())
        loss = 0.0
        for _ in range(40):
            rate_bps = min(followers.rate_bps or _GBIT, _GBIT)
            loss = 1 - min(8e7 / rate_bps, 1.0)
            followers.report(followers.epoch, rate_bps, 4000, {"a": loss, "b": 0.0})
        self.assertEqual([client for client, _ in self.slow], ["a"])
        followers.forget("a")
        self.assertIsNone(followers.rate_bps)

    def test_a_tenth_of_what_was_taken_at_best(self) -> None:
        """Step by step it gets no lower, either."""
        followers = self.followers(2, control=Trials())
        takes_bps = 0.9 * _GBIT
        for number in range(300):
            rate_bps = min(followers.rate_bps or _GBIT, _GBIT)
            followers.report(
                followers.epoch,
                rate_bps,
                4000,
                {"a": 1 - min(takes_bps / rate_bps, 1.0), "b": 0.0},
            )
            if number % 10 == 9:
                takes_bps *= 0.8
            if self.slow:
                break
        self.assertTrue(self.slow)
        self.assertGreater(takes_bps, 0.05 * _GBIT)

    def test_one_that_is_five_times_as_slow_is_followed(self) -> None:
        followers = self.followers(4)
        losses: dict[Hashable, float] = {"a": 0.8, "b": 0.0, "c": 0.0, "d": 0.0}
        for _ in range(5):
            followers.report(FIRST_EPOCH, _GBIT, 4000, losses)
        self.assertEqual((self.slow, self.control.told), ([], [losses] * 5))
        # Unless the operator says so.
        self.followers(4, 5e8).report(FIRST_EPOCH, _GBIT, 4000, losses)
        self.assertNotIn("a", self.control.told[-1])

    def test_an_accident(self) -> None:
        followers = self.followers(2)
        for loss in (0.95, 0.0, 0.95, 0.0):
            followers.report(FIRST_EPOCH, _GBIT, 4000, {"a": loss, "b": 0.0})
        self.assertEqual(self.slow, [])

    def test_most_are_slow(self) -> None:
        followers = self.followers(3)
        losses: dict[Hashable, float] = {"a": 0.95, "b": 0.95, "c": 0.0}
        for _ in range(3):
            followers.report(FIRST_EPOCH, _GBIT, 4000, losses)
        self.assertEqual((self.slow, self.control.told), ([], [losses] * 3))

    def test_one_whose_answer_comes_alone(self) -> None:
        """A buffer may be reported in parts."""
        followers = self.followers(3)
        for _ in range(2):
            followers.report(FIRST_EPOCH, _GBIT, 4000, {"b": 0.0, "c": 0.0})
            followers.report(FIRST_EPOCH, _GBIT, 4000, {"a": 0.999})
        self.assertEqual([client for client, _ in self.slow], ["a"])
        self.assertEqual(self.control.told[1], {})

    def test_whom_nothing_reaches(self) -> None:
        followers = self.followers(2)
        for _ in range(3):
            followers.report(FIRST_EPOCH, _GBIT, 4000, {"a": 1.0, "b": 0.0})
        self.assertEqual(self.slow, [])

    def test_who_has_to_stay_is_followed(self) -> None:
        self.staying = {"a"}
        followers = self.followers(2)
        for _ in range(3):
            followers.report(FIRST_EPOCH, _GBIT, 4000, {"a": 0.999, "b": 0.0})
        self.assertEqual((self.slow, len(self.control.told[-1])), ([], 2))

    def test_one_alone(self) -> None:
        followers = self.followers(1)
        followers.report(FIRST_EPOCH, _GBIT, 4000, {"a": 0.999})
        self.assertEqual(self.control.told, [{"a": 0.999}])

    def test_a_small_buffer_measures_nothing(self) -> None:
        followers = self.followers(2)
        for _ in range(3):
            followers.report(FIRST_EPOCH, _GBIT, 10, {"a": 0.999, "b": 0.0})
        self.assertEqual(self.slow, [])


class LossyTests(_TestCase):
    """Few among many that lose far more."""

    def losses(self, clients: int, usual: float, *lossy: float) -> dict[Hashable, float]:
        shares = [*lossy, *[usual] * (clients - len(lossy))]
        return dict(enumerate(shares))

    def test_one_of_a_thousand_loses_a_third(self) -> None:
        followers = self.followers(1000, control=Trials())
        for _ in range(10):
            followers.report(followers.epoch, _GBIT, 4000, self.losses(1000, 0.0, 0.3))
        self.assertIsNone(followers.rate_bps)
        self.assertEqual(self.slow, [])

    def test_one_of_few_is_followed(self) -> None:
        followers = self.followers(15)
        followers.report(FIRST_EPOCH, _GBIT, 4000, self.losses(15, 0.0, 0.3))
        self.assertEqual(len(self.control.told[0]), 15)

    def test_many_of_many_are_followed(self) -> None:
        followers = self.followers(1000)
        followers.report(FIRST_EPOCH, _GBIT, 4000, self.losses(1000, 0.01, *[0.3] * 5))
        self.assertEqual(len(self.control.told[0]), 1000)
        followers.report(FIRST_EPOCH, _GBIT, 4000, self.losses(1000, 0.01, *[0.3] * 4))
        self.assertEqual(len(self.control.told[1]), 996)

    def test_all_lose_much(self) -> None:
        followers = self.followers(64)
        followers.report(FIRST_EPOCH, _GBIT, 4000, self.losses(64, 0.2, 0.25, 0.9))
        self.assertEqual(set(range(64)) - set(self.control.told[0]), {1})
