"""Whether and when a client looks for its server again: a value and a clock that is a number."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from kollacast.client.endings import Lost
from kollacast.client.retry import Retry


class RetryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.retry = Retry.begin(30.0, 100.0)

    def test_a_server_that_closes_at_once_is_tried_until_the_deadline(self) -> None:
        retry = self.retry.after(Lost(), None, 110.0)
        self.assertEqual(retry, self.retry)
        self.assertEqual(retry.delay_s(110.0), 0.05)
        self.assertEqual(retry.delay_s(129.9), 0.05)
        self.assertIsNone(retry.delay_s(129.96))

    def test_what_has_come_since_the_last_loss_gives_all_the_time_again(self) -> None:
        deadlines = []
        retry = self.retry
        for kept, now in ((0, 110.0), (0, 115.0), (40, 120.0), (40, 125.0), (0, 130.0)):
            retry = retry.after(Lost(), kept, now)
            deadlines.append(retry.deadline)
        self.assertEqual(deadlines, [140.0, 140.0, 150.0, 150.0, 160.0])

    def test_a_server_that_waited(self) -> None:
        for waited_s, deadline in ((9.9, 130.0), (10.1, 140.0)):
            retry = self.retry.after(Lost(waited_s=waited_s), None, 110.0)
            self.assertEqual(retry.deadline, deadline)

    def test_a_server_that_says_that_another_one_may_follow(self) -> None:
        retry = self.retry.after(Lost(ended="interrupted"), None, 110.0)
        self.assertEqual((retry.deadline, retry.refused), (140.0, None))

    def test_a_refusal_for_now_is_tried_less_often_until_the_image_comes(self) -> None:
        retry = self.retry.after(Lost(refused="host1 is here"), None, 110.0)
        self.assertEqual((retry.refused, retry.delay_s(110.0)), ("host1 is here", 1.0))
        self.assertIsNone(retry.delay_s(129.5))
        retry = retry.after(Lost(), None, 112.0)
        self.assertEqual(retry.refused, "host1 is here")
        retry = retry.after(Lost(has_begun=True), None, 114.0)
        self.assertEqual((retry.refused, retry.delay_s(114.0)), (None, 0.05))

    def test_no_time_at_all_is_one_attempt(self) -> None:
        self.assertIsNone(Retry.begin(0.0, 100.0).delay_s(100.0))
