"""Who is let in before it has said a word, and what strangers cost those who are meant."""

from __future__ import annotations

from dataclasses import dataclass, field

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from kollacast.operator.outcome import Status
from kollacast.server.crowd_log import CrowdLog
from kollacast.server.door import Door
from kollacast.wire.greeting import Hello
from kollacast.wire.messages import Report
from tests.simulation.image import MemorySource
from tests.simulation.network import Network
from tests.simulation.raw_ends import RawClient
from tests.simulation.testcase import MemoryTestCase


@dataclass
class _Port:
    numberAccepts: int = 100
    rests: int = 0
    is_resting: bool = field(default=False)

    def pauseProducing(self) -> None:
        self.is_resting = True
        self.rests += 1

    def resumeProducing(self) -> None:
        self.is_resting = False


class DoorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.known: set[str] = set()
        self.door = Door(self.clock, 4, self.known.__contains__)
        self.port = _Port()
        self.door.watch(self.port)

    def let_in(self, address: str, tries: int) -> int:
        return sum([self.door.lets_in(address) for _ in range(tries)])

    def test_one_that_connects_and_connects(self) -> None:
        self.assertEqual(self.let_in("10.0.0.9", 1000), 4 + 64)
        self.clock.advance(1.0)
        self.assertEqual(self.let_in("10.0.0.9", 1000), 10)
        # Nobody else is concerned.
        self.assertTrue(self.door.lets_in("10.0.0.8"))

    def test_a_cluster_behind_one_address_may_come_at_once_and_again(self) -> None:
        door = Door(self.clock, 1000, self.known.__contains__)
        for _ in range(3):
            self.assertEqual(sum([door.lets_in("10.0.0.1") for _ in range(1000)]), 1000)
            for _ in range(1000):
                door.said_hello("10.0.0.1")

    def test_one_that_says_hello_and_goes_time_and_again(self) -> None:
        let_in = 0
        for _ in range(1000):
            if self.door.lets_in("10.0.0.9"):
                let_in += 1
                self.door.said_hello("10.0.0.9")
        self.assertEqual(let_in, 4 * 4 + 64)

    def test_many_addresses_do_not_keep_out_a_host_that_is_known(self) -> None:
        self.known.add("10.0.0.1")
        let_in = sum([self.let_in(f"10.1.{n // 250}.{n % 250}", 1) for n in range(1000)])
        self.assertEqual(let_in, 2 * 4 + 256)
        self.assertFalse(self.door.lets_in("10.0.0.2"))
        self.assertTrue(self.door.lets_in("10.0.0.1"))

    def test_addresses_are_bounded(self) -> None:
        door = Door(self.clock, 100_000, self.known.__contains__)
        for number in range(10_000):
            door.lets_in(str(number))
            if number % 100 == 0:
                self.clock.advance(1.0)
        self.assertLessEqual(len(door._addresses), 4096)

    def test_the_port_rests(self) -> None:
        """At 2,000 a second: what is done for one takes some 20 microseconds."""
        accepted = 0
        for _ in range(1000):  # 10 s
            # As the port does it.
            for _ in range(0 if self.port.is_resting else self.port.numberAccepts):
                self.door.lets_in("10.0.0.9")
                accepted += 1
            self.clock.advance(0.01)
        self.assertLess(accepted, 4100 + 10 * 2000 + 64)
        self.assertGreater(accepted, 4100 + 9 * 2000)
        self.assertGreater(self.port.rests, 10)
        self.door.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CrowdLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.log = CrowdLog(self.clock, 4)

    def lines(self, seconds: float) -> list[str]:
        with capturedLogs() as events:
            for _ in range(round(seconds)):
                self.clock.advance(1.0)
        return [formatEvent(event) for event in events]

    def test_few_are_said_one_by_one(self) -> None:
        for _ in range(10):
            self.assertTrue(self.log.may_say("a"))
        self.assertEqual(self.lines(10), [])

    def test_many_are_a_number(self) -> None:
        for _ in range(1084):
            self.log.closed("10.0.0.9")
        self.assertEqual(
            self.lines(10), ["1,084 connections a second from 10.0.0.9, none said hello"]
        )

    def test_whatever_goes_on_is_said_less_and_less_often(self) -> None:
        said = 0
        for _ in range(600):
            for _ in range(50):
                self.log.closed("10.0.0.9")
            said += len(self.lines(1))
        self.assertLess(said, 16)
        self.assertGreater(said, 8)

    def test_from_everywhere(self) -> None:
        for number in range(5000):
            self.log.closed(str(number))
        said = self.lines(1)
        self.assertEqual(len(said), 4)
        self.assertEqual(said[0], "3,976 connections a second from many addresses, none said hello")
        self.assertEqual(said[-1], "1,022 connections from 1022 other addresses, none said hello")

    def test_lines_about_clients(self) -> None:
        self.assertEqual(sum([self.log.may_say() for _ in range(1000)]), 4 * 4 + 64)
        self.assertEqual(self.lines(1), ["920 lines about clients are left out"])

    def test_what_is_left_is_said_in_the_end(self) -> None:
        self.log.closed("a")
        with capturedLogs() as events:
            self.log.close()
        self.assertEqual(len(events), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StrangersTests(MemoryTestCase):
    """They take neither places nor time from those who are meant."""

    def setUp(self) -> None:
        super().setUp()
        self.network = Network()

    def strangers(self, count: int, address: str = "10.0.9.9") -> list[RawClient]:
        """So many, which all have come from one host."""
        found = []
        for number in range(count):
            host = self.network.new_host("10.0.9")
            host.address = address
            raw = RawClient(host)
            found.append(raw)
            self.network.settle()
            raw.send(Hello(f"stranger {number}", 1 << 20, fetch=True).encode())
        return found

    def test_five_that_say_hello_first(self) -> None:
        """They have taken all places; each host that is meant gets one of them."""
        source = MemorySource(bytes(1000), identity="file")
        server = self.network.serve(source, clients=5, client_timeout_s=10.0)
        strangers = self.strangers(5)
        hosts = [self.network.join() for _ in range(4)]
        for host in hosts:
            self.assertEqual(host.finish().status, Status.OK)
        out = [raw for raw in strangers if raw.count(Report)]
        self.assertEqual(out, strangers[1:])
        self.assertEqual(
            out[-1].last(Report).fields["reason"],
            "5 have come from 10.0.9.9, and another host has come",
        )
        self.assertEqual(server.finish().report["clients_verified"], 4)

    def test_one_more_of_hosts_that_are_alike_is_refused(self) -> None:
        self.network.serve(MemorySource(bytes(1000), identity="file"), clients=2)
        self.network.raw_client().hello("a")
        self.network.raw_client().hello("b")
        late = self.network.join()
        self.assertIn("all 2 clients are here already", late.finish().line)

    def test_a_secret_keeps_them_out(self) -> None:
        server = self.network.serve(bytes(1000), clients=2, secret=b"0123456789abcdef")
        self.strangers(5)
        hosts = [self.network.join(secret=b"0123456789abcdef") for _ in range(2)]
        for host in hosts:
            self.assertEqual(host.finish().status, Status.OK)
        self.assertEqual(server.finish().status, Status.OK)

    def test_one_that_comes_and_goes_leaves_little_behind(self) -> None:
        source = MemorySource(bytes(1000), identity="file")
        server = self.network.serve(source, clients=2)
        slow = self.network.join(threads=True)
        self.network.settle()
        slow.threads["disk"].held = True
        self.network.join()
        for number in range(400):
            raw = self.network.raw_client()
            raw.send(Hello(f"stranger {number}", 1 << 20, fetch=True, pull=True).encode())
            raw.close()
        self.assertLessEqual(len(server.snapshot.clients), 2 + 4 * 2 + 64)
