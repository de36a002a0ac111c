"""What brings a client nearer to the image, and what only sounds like it."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from kollacast.operator.outcome import Status
from kollacast.server.movement import Movement
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Hello
from kollacast.wire.messages import Ask, BufferCtl, Credit, Detach, Fetch, Report, Request, Sent
from tests.simulation.image import MemorySource
from tests.simulation.network import Network
from tests.simulation.raw_ends import RawClient
from tests.simulation.runs import ClientRun, ServerRun
from tests.simulation.settings import CAPACITY
from tests.simulation.testcase import MemoryTestCase

_IMAGE = bytes(range(256)) * 40


class MovementTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.movement = Movement(self.clock)
        self.clock.advance(10.0)

    def assert_moves(self, moves: bool) -> None:
        self.assertEqual(self.movement.still_s, 0.0 if moves else 10.0)
        if moves:
            self.clock.advance(10.0)

    def test_answers_that_were_due(self) -> None:
        self.movement.answered(1)
        self.assert_moves(True)
        self.movement.answered(1)
        self.assert_moves(False)

    def test_packets_asked_for_one_by_one(self) -> None:
        for _ in range(4):
            self.movement.resent(50, max_request=100)
            self.assert_moves(True)
        self.movement.resent(1, max_request=100)
        self.assert_moves(False)
        self.movement.answered(1)
        self.assert_moves(True)
        self.movement.resent(1, max_request=100)
        self.assert_moves(True)

    def test_what_is_fetched_again(self) -> None:
        self.movement.fetched(20)
        self.assert_moves(True)
        self.movement.fetched(20)
        self.movement.fetched(10)
        self.assert_moves(False)


class StandingStillTests(MemoryTestCase):
    """Who says something all the time, and does not get on, is out after `--client-timeout`."""

    def setUp(self) -> None:
        super().setUp()
        self.network = Network()

    def serve(self, identity: str | None = "file", **options: object) -> ServerRun:
        source = MemorySource(_IMAGE, identity=identity)
        return self.network.serve(source, clients=2, client_timeout_s=20.0, **options)

    def talk(self, raw: RawClient, words: bytes, seconds: float) -> None:
        """Say these words every second, as long as anybody hears."""
        for _ in range(int(seconds)):
            if raw.lost is not None:
                return
            raw.send(words)
            self.network.run_for(1.0)

    def assert_out(self, server: ServerRun, raw: RawClient, honest: ClientRun, why: str) -> None:
        self.assertEqual(honest.finish(limit_s=1.0).status, Status.OK)
        self.assertEqual(raw.last(Report).fields["reason"], why)
        outcome = server.finish(limit_s=10.0)
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assert_all_gone(self.network)

    def _in_step(self, words: bytes | None = None) -> None:
        """It holds up an honest one, where the past cannot be read and all wait for all."""
        server = self.serve(None)
        raw, honest = self.network.raw_client(), self.network.join()
        raw.send(Hello("raw", 1 << 20).encode())
        raw.answer(BufferCtl)
        self.network.run_until(lambda: raw.count(Sent))
        assert raw.credit is not None
        self.talk(raw, words or raw.credit.encode(KOLLACAST), 25)
        self.assert_out(server, raw, honest, "no DONE for 20 s")

    def test_requests_for_nothing(self) -> None:
        self._in_step(Request(()).encode(KOLLACAST))

    def test_the_same_request_again_and_again(self) -> None:
        server = self.serve(None)
        raw, honest = self.network.raw_client(), self.network.join()
        raw.send(Hello("raw", 1 << 20).encode())
        raw.answer(BufferCtl)
        self.network.run_until(lambda: raw.count(Sent))
        # A window's packets twice, and then no more.
        self.talk(raw, Request((0,)).encode(KOLLACAST), 32 + 22)
        self.assert_out(server, raw, honest, "no DONE for 20 s")

    def test_questions(self) -> None:
        self._in_step(Ask(0).encode(KOLLACAST))

    def test_the_same_credit_again_and_again(self) -> None:
        self._in_step()

    def _fetching(self, words: bytes, owed: str) -> None:
        server = self.serve()
        raw = self.network.raw_client()
        raw.send(Hello("raw", 1 << 20, fetch=True, pull=True).encode())
        honest = self.network.join()
        self.network.run_for(1.0)
        self.talk(raw, words, 25)
        self.assert_out(server, raw, honest, f"no {owed} for 20 s")

    def test_fetches_of_nothing(self) -> None:
        self._fetching(Fetch(0, 0).encode(KOLLACAST), "FETCH")

    def test_fetches_of_the_same(self) -> None:
        self._fetching(Fetch(3, 2).encode(KOLLACAST), "FETCH")

    def test_fetches_behind_the_end(self) -> None:
        """Its report is all that it owes then; it has had all the time for it."""
        server = self.serve()
        raw = self.network.raw_client()
        raw.send(Hello("raw", 1 << 20, fetch=True, pull=True).encode())
        honest = self.network.join()
        self.network.run_for(1.0)
        raw.send(Fetch(0, 400).encode(KOLLACAST))
        self.talk(raw, Fetch(0, 1).encode(KOLLACAST), 205)
        self.assert_out(server, raw, honest, "no REPORT for 200 s")

    def test_coming_back_without_end(self) -> None:
        server = self.serve()
        honest = self.network.join()
        hello = Hello("raw", 1 << 20, fetch=True, pull=True, run="ab").encode()
        times = 0
        while server.outcome is None and times < 100:
            raw = self.network.raw_client()
            raw.send(hello)
            raw.send(Fetch(0, 1).encode(KOLLACAST))
            self.network.run_for(1.0)
            raw.close()
            times += 1
        self.assertEqual(honest.finish().status, Status.OK)
        self.assertEqual(server.finish().status, Status.PARTIAL)
        self.assertLess(times, 20)

    def test_one_that_gets_on_slowly_is_served(self) -> None:
        server = self.serve()
        raw = self.network.raw_client()
        raw.send(Hello("raw", 1 << 20, fetch=True, pull=True).encode())
        self.network.join()
        packets = -(-len(_IMAGE) // CAPACITY)
        for first in range(0, packets + 1, 20):
            self.network.run_for(15.0)
            raw.send(Fetch(first, 20).encode(KOLLACAST))
        raw.report()
        self.assertEqual(server.finish().status, Status.OK)


class PacedAnswersTests(MemoryTestCase):
    """Answers each of which comes just in time cost the others no more than all together may."""

    def _time(self, delay_s: float | None) -> float:
        """Seconds for which an honest host takes part beside one that answers so late."""
        network = Network()
        # 100 buffers in windows of 4, each of which leaves in 0.1 s.
        source = MemorySource(bytes(100 * 20 * 1460), identity="file")
        server = network.serve(
            source, clients=2, mtu=1500, buffer_packets=20, rate_bps=10 * 20 * 1500 * 8
        )
        honest = network.join()
        if delay_s is None:
            network.join()
        else:
            raw = network.raw_client()
            raw.send(Hello("raw", 1 << 20, fetch=True).encode())
            # It grants room for one buffer, where it is to be a window.
            while honest.outcome is None and not raw.count(Detach):
                network.run_for(delay_s)
                if raw.credit is not None:
                    done = min(raw.credit.done + 1, raw.count(Sent))
                    raw.credit = Credit(done, raw.credit.room + 1)
                    raw.send(raw.credit.encode(KOLLACAST))
            self.assertEqual(raw.count(Detach), 1)
        seconds: float = honest.finish().report["seconds"]
        server.server.interrupt("interrupted")
        return seconds

    def test_just_in_time_all_the_time(self) -> None:
        alone_s = self._time(None)
        for delay_s in (4.9, 0.6, 0.3, 0.2, 0.1):
            self.assertLess(self._time(delay_s), 1.1 * alone_s)
