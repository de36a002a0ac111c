"""The server among the C programs: connections that it cannot know, and clients that wait briefly.

The C clients here are hand-driven; :meth:`_JasmineTestCase.patience` holds the server to how long
they wait behind their READY for a datagram or SENT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.logger import LogEvent, capturedLogs, formatEvent

from kollacast.operator.expectation import Expectation
from kollacast.operator.outcome import Status
from kollacast.wire.dialect import JASMINE
from kollacast.wire.greeting import Hello
from kollacast.wire.messages import BufferCtl, Request, Sent
from tests.simulation.image import MemorySource
from tests.simulation.network import Network
from tests.simulation.raw_ends import RawClient
from tests.simulation.runs import ServerRun
from tests.simulation.settings import BUFFER_PACKETS, CAPACITY
from tests.simulation.testcase import MemoryTestCase

_IMAGE = bytes(i * 7 % 251 for i in range(3 * BUFFER_PACKETS * CAPACITY + 40))
_BOTH = (BufferCtl, Sent)
#: Seconds for which the C client up to May 2017 waits.
_WAIT_S = 5.0


class _JasmineTestCase(MemoryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.network = Network()

    def serve(self, clients: int, **options: Any) -> ServerRun:
        return self.network.serve(_IMAGE, clients=clients, dialect_name="jasmine", **options)

    def client(self, *answers: type) -> RawClient:
        raw = self.network.raw_client(JASMINE)
        raw.answer(*answers)
        return raw

    def addresses(self, server: ServerRun) -> list[str]:
        assert server.outcome is not None
        return [entry["address"] for entry in server.outcome.report["clients"]]


class UnidentifiedTests(_JasmineTestCase):
    """Who connects and never says READY: a scanner, a health check, a program of another port."""

    def test_it_is_dropped_before_a_c_client_gives_up_and_does_not_count(self) -> None:
        with capturedLogs() as events:
            server = self.serve(3)
            visitor = self.client()
            clients = [self.client(*_BOTH) for _ in range(2)]
            self.assertEqual([client.count(BufferCtl) for client in clients], [1, 1])
            self.network.run_for(3.9)
            self.assertIsNone(visitor.lost)
            self.network.run_for(_WAIT_S - 3.9 - 0.5)
            self.assertIsNotNone(visitor.lost)
            self.assertEqual([client.count(Sent) for client in clients], [5, 5])
            outcome = server.finish(limit_s=1.0)
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assertEqual(outcome.line, "2 of 3 clients have the image, 1 never came")
        self.assertEqual(self.addresses(server), [client.host.address for client in clients])
        self.assertIn(
            f"{visitor.host.address} does not count as a client: no READY for 4 s, and jasmine"
            " clients wait no longer",
            [formatEvent(event) for event in events],
        )
        self.assert_all_gone(self.network)

    def test_one_that_leaves_or_says_something_else_does_not_count_either(self) -> None:
        for words in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x04", b"\x02\x01\0\0\0\0\0\0\0"):
            self.network = Network()
            server = self.serve(2)
            visitor = self.client()
            client = self.client(*_BOTH)
            if words:
                visitor.send(words)
            else:
                visitor.close()
            outcome = server.finish(limit_s=1.0)
            self.assertEqual(outcome.line, "1 of 2 clients have the image, 1 never came", words)
            self.assertEqual(self.addresses(server), [client.host.address], words)

    def test_where_only_unidentified_ones_came_the_clients_are_waited_for(self) -> None:
        """Nothing has been sent, so nobody misses anything."""
        for image in (_IMAGE, b""):
            self.network = Network()
            server = self.network.serve(
                MemorySource(image),
                clients=2,
                dialect_name="jasmine",
                expectation=Expectation(allow_empty=True),
            )
            unidentified = [self.client() for _ in range(2)]
            self.network.run_for(4.5)
            self.assertNotIn(None, [visitor.lost for visitor in unidentified])
            self.assertEqual(server.phase, "waiting for clients")
            self.assertEqual(server.server.progress().clients, 0)
            self.network.run_for(600.0)
            again = self.client()
            again.close()
            third = self.client()
            first = self.client(*_BOTH)
            self.network.run_for(4.5)
            # One more visitor, and now with a client that cannot wait.
            self.assertIsNotNone(third.lost)
            outcome = server.finish(limit_s=1.0)
            self.assertEqual(outcome.line, "1 of 2 clients have the image, 1 never came")
            self.assertEqual(self.addresses(server), [first.host.address])
            self.assertLess(outcome.report["seconds"], 10.0)
            self.assert_all_gone(self.network)

    def test_where_they_came_before_the_input_did(self) -> None:
        """Nothing is announced yet when the last of them has gone, and somebody else comes."""
        for comes_before_input in (True, False):
            self.network = Network()
            server = self.network.serve(
                MemorySource(_IMAGE), threads=True, dialect_name="jasmine", window=1
            )
            reading = server.threads["read"]
            reading.held = True
            visitor = self.client()
            self.assertEqual(server.phase, "sending")
            visitor.close()
            self.assertEqual(server.phase, "waiting for clients")
            if comes_before_input:
                client = self.client(*_BOTH)
                reading.release()
            else:
                reading.release()
                self.network.settle()
                client = self.client(*_BOTH)
            outcome = server.finish(limit_s=3.0)
            self.assertEqual(outcome.status, Status.OK)
            self.assertEqual(self.addresses(server), [client.host.address])

    def test_clients_behind_others_get_all(self) -> None:
        server = self.serve(2)
        for _ in range(3):
            for _ in range(2):
                self.client()
            self.network.run_for(4.5)
        raw = self.client(*_BOTH)
        ours = self.network.join()
        self.network.settle()
        outcome = server.finish(limit_s=1.0)
        self.assertEqual((outcome.status, outcome.report["clients_verified"]), (Status.OK, 2))
        self.assertEqual(ours.finish(limit_s=1.0).status, Status.OK)
        self.assertEqual(ours.sink.data, _IMAGE)
        self.assertEqual(raw.count(BufferCtl), 5)

    def test_connections_do_not_prolong_the_wait(self) -> None:
        server = self.serve(1, accept_timeout_s=10.0)
        for _ in range(2):
            self.client()
            self.network.run_for(4.5)
        self.assertEqual(server.phase, "waiting for clients")
        self.client()
        outcome = server.finish(limit_s=5.5)
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertEqual(outcome.line, "0 of 1 clients came within 10 s")

    def test_a_client_that_comes_after_another_took_its_place_is_closed(self) -> None:
        server = self.serve(2)
        self.client()
        first = self.client(*_BOTH)
        late = self.client(*_BOTH)
        self.assertEqual((late.data, late.lost is not None), (b"", True))
        server.finish(limit_s=5.0)
        self.assertEqual(self.addresses(server), [first.host.address])

    def test_who_has_said_ready_and_leaves_is_a_client(self) -> None:
        server = self.serve(2)
        leaver = self.client(BufferCtl)
        self.client(*_BOTH)
        leaver.close()
        outcome = server.finish(limit_s=1.0)
        self.assertEqual(
            outcome.line,
            "1 of 2 clients have the image; without: "
            f"{leaver.host.address} ({leaver.host.address}): the connection was lost",
        )


class PatienceTests(_JasmineTestCase):
    """A C client that has said READY gives up when neither a datagram nor SENT comes in time."""

    def test_no_ready_for_a_later_buffer(self) -> None:
        server = self.serve(2)
        slow = self.client(*_BOTH)
        slow.answer_no_more(BufferCtl)
        quick = self.client(*_BOTH)
        self.assertEqual((quick.count(BufferCtl), quick.count(Sent)), (1, 0))
        slow.ready()
        self.assertEqual((quick.count(BufferCtl), quick.count(Sent)), (2, 1))
        self.network.run_for(_WAIT_S - 0.5)
        self.assertIsNotNone(slow.lost)
        outcome = server.finish(limit_s=0.1)
        (entry,) = [e for e in outcome.report["clients"] if not e["verified"]]
        self.assertEqual(entry["address"], slow.host.address)
        self.assertIn("no READY for 4 s", entry["reason"])

    def test_a_client_may_take_long_to_write(self) -> None:
        """For DONE nobody's timer runs."""
        server = self.serve(2)
        slow = self.client(BufferCtl)
        quick = self.client(*_BOTH)
        self.network.run_for(50.0)
        self.assertEqual((quick.count(Sent), slow.lost), (1, None))
        slow.answer(Sent)
        self.assertEqual(server.finish(limit_s=1.0).status, Status.OK)

    def test_a_longer_client_timeout_changes_nothing_about_it(self) -> None:
        server = self.serve(2, client_timeout_s=300.0)
        self.client()
        self.client(*_BOTH)
        server.finish(limit_s=_WAIT_S - 0.5)

    def test_the_default_dialect_has_no_such_limit(self) -> None:
        server = self.network.serve(_IMAGE, clients=1)
        raw = self.network.raw_client()
        raw.hello()
        self.network.run_for(30.0)
        self.assertEqual((raw.lost, server.outcome), (None, None))

    def test_repairs_do_not_delay_the_next_buffer(self) -> None:
        """At a low rate, what has gone by TCP would take the place of many seconds of multicast."""
        server = self.serve(1, rate_bps=10_000)
        raw = self.client(BufferCtl)
        self.network.run_until(lambda: raw.count(Sent))
        request = Request(tuple(range(BUFFER_PACKETS))).encode(JASMINE)
        raw.expect_packets(100 * BUFFER_PACKETS)
        before = len(self.network.datagrams)
        raw.transport.write(100 * request)
        raw.done()
        self.network.run_for(_WAIT_S - 1.0)
        self.assertGreater(len(self.network.datagrams), before)
        raw.answer(Sent)
        self.assertEqual(server.finish().status, Status.OK)


class DefaultDialectTests(_JasmineTestCase):
    """A C client that meets a server which was not told to speak its dialect."""

    def _lines(self, address: str, events: Sequence[LogEvent]) -> list[str]:
        return [line for line in map(formatEvent, events) if line and line.startswith(address)]

    def test_it_is_named(self) -> None:
        for leaves in (RawClient.close, lambda client: client.transport.reset()):
            self.network = Network()
            with capturedLogs() as events:
                server = self.network.serve(_IMAGE, clients=1)
                raw = self.network.raw_client()
                leaves(raw)
                self.network.settle()
            (line,) = self._lines(raw.host.address, events)
            self.assertIn("as the C client jasminec does", line)
            self.assertIn("--dialect jasmine", line)
            self.assertEqual(server.phase, "waiting for clients")

    def test_who_speaks_first_or_is_closed_is_not_taken_for_one(self) -> None:
        with capturedLogs() as events:
            self.network.serve(_IMAGE, clients=2)
            speaks, silent, joins = (self.network.raw_client() for _ in range(3))
            speaks.send(b"\0\0")
            speaks.close()
            joins.send(Hello("x", 100).encode())
            joins.close()
            self.network.run_for(6.0)
        self.assertIn("no valid hello within 5 s", self._lines(silent.host.address, events)[0])
        said = [formatEvent(event) or "" for event in events]
        self.assertEqual([line for line in said if "jasmine" in line], [])
