"""What is found to be wrong, rule by rule, from facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from kollacast.operator.findings import HostFacts, RunFacts, diagnose, diagnose_host
from tests.simulation.links import Weather
from tests.simulation.network import Network
from tests.simulation.testcase import MemoryTestCase


def _host(number: int, **facts: Any) -> HostFacts:
    received = {"sent": 100_000, "received": 100_000 - facts.get("lost", 0), **facts}
    return HostFacts(f"host-{number}", f"10.0.{number // 256}.{number % 256}", **received)


def _hosts(*numbers: int, **facts: Any) -> list[HostFacts]:
    return [_host(number, **facts) for number in numbers]


def _found(*hosts: HostFacts, multicast: int = 100_000, seconds: float = 30.0) -> list[str]:
    return diagnose(RunFacts(hosts, multicast, seconds, "239.238.0.31 port 18383"))


class RuleTests(SynchronousTestCase):
    def test_all_is_well(self) -> None:
        """Also with what little is lost while the rate is found."""
        self.assertEqual(_found(*_hosts(*range(1, 201), lost=900, answering_s=3.0)), [])
        self.assertEqual(_found(_host(1, lost=900, dropped=3, damaged=20)), [])
        self.assertEqual(_found(), [])

    def test_some_lose(self) -> None:
        good, bad = _hosts(*range(1, 12)), _hosts(12, 13, lost=8000)
        self.assertEqual(
            _found(*good, *bad),
            [
                "hosts 10.0.0.12, .13 lost 8 % while the rest lost none: look at their switch ports"
                " and cables"
            ],
        )
        [line] = _found(*_hosts(*range(1, 9), lost=400), _host(9, lost=3000), _host(10, lost=25000))
        self.assertIn("hosts 10.0.0.9, .10 lost 3 to 25 % while the rest lost 0.4 %", line)

    def test_of_two_hosts_one_loses(self) -> None:
        [line] = _found(_host(1), _host(2, lost=2550))
        self.assertEqual(
            line,
            "host 10.0.0.2 lost 2.5 % while the rest lost none: look at its switch port and cable",
        )

    def test_too_little_to_judge_by(self) -> None:
        self.assertEqual(_found(_host(1, sent=499), _host(2, sent=499, lost=200)), [])

    def test_all_lose_alike(self) -> None:
        self.assertEqual(
            _found(*_hosts(*range(1, 101), lost=3000)),
            [
                "all 100 hosts alike lost 3 %: look at the server's uplink, or at a trunk that all"
                " share"
            ],
        )
        [line] = _found(_host(1, lost=5000))
        self.assertEqual(line, "host 10.0.0.1 lost 5 %: look at the way there from the server")

    def test_nobody_hears(self) -> None:
        [line] = _found(*_hosts(1, 2, 3, lost=100_000))
        self.assertEqual(
            line,
            "no host received any multicast of 239.238.0.31 port 18383: look for an IGMP querier,"
            " at snooping, at firewalls, and at routers in between (--ttl)",
        )
        gave_up = _hosts(1, 2, sent=0, received=0, fetching="no multicast reaches it")
        self.assertEqual(_found(*gave_up), [line])

    def test_nobody_was_to_hear(self) -> None:
        told = {"sent": 0, "received": 0, "fetching": "the server was told to use no multicast"}
        self.assertEqual(_found(*_hosts(1, 2, **told), multicast=0), [])

    def test_some_hear_nothing(self) -> None:
        deaf = _host(7, sent=9000, lost=9000, received=0, fetching="no multicast reaches it")
        [line] = _found(*_hosts(1, 2, 3), deaf)
        self.assertIn("no multicast reached host 10.0.0.7, and the rest received it", line)

    def test_a_host_that_is_gone_before_it_could_hear(self) -> None:
        self.assertEqual(_found(*_hosts(1, 2), _host(3, sent=0, received=None)), [])

    def test_every_kernel_drops(self) -> None:
        small = {"buffer_bytes": 212_992, "buffer_wanted_bytes": 25_164_560}
        hosts = _hosts(*range(1, 21), lost=4000, dropped=1500, **small)
        self.assertEqual(
            _found(*hosts),
            ["every host dropped in the receive buffer: raise net.core.rmem_max to 25164560"],
        )
        # Put together by the kernel, 45 packets are dropped as one.
        self.assertEqual(len(_found(*_hosts(1, 2, lost=4000, dropped=89, **small))), 1)

    def test_a_kernel_drops_whose_buffer_is_large(self) -> None:
        full = {"buffer_bytes": 25_164_560, "buffer_wanted_bytes": 25_164_560}
        [line] = _found(*_hosts(1, 2, 3), _host(4, lost=9000, dropped=9000, **full))
        self.assertEqual(
            line,
            "host 10.0.0.4 dropped in the receive buffer: it is as large as it should be, so look"
            " for what else keeps the processor busy",
        )

    def test_a_few_drops_explain_nothing(self) -> None:
        [line] = _found(*_hosts(1, 2, 3), _host(4, lost=9000, dropped=20))
        self.assertIn("host 10.0.0.4 lost 9 %", line)

    def test_a_slow_disk(self) -> None:
        slow = _host(9, answering_s=25.0, writing_s=28.0)
        [line] = _found(*_hosts(1, 2, 3, answering_s=2.0, writing_s=6.0), slow)
        self.assertIn("host 10.0.0.9 waited for the disk, and the rest did not", line)
        [line] = _found(*_hosts(1, 2, answering_s=2.0), replace(slow, writing_s=1.0))
        self.assertIn("host 10.0.0.9 took long to answer", line)

    def test_slow_disks(self) -> None:
        [line] = _found(*_hosts(1, 2, 3, answering_s=20.0, writing_s=29.0))
        self.assertIn("the disks of every host were busy nearly all the time", line)
        self.assertEqual(_found(*_hosts(1, 2, 3, writing_s=0.9), seconds=1.0), [])

    def test_foreign_datagrams(self) -> None:
        [line] = _found(*_hosts(1, 2), _host(3, damaged=5000))
        self.assertIn("host 10.0.0.3 received datagrams at 239.238.0.31 port 18383 that are", line)

    def test_forged(self) -> None:
        """The one line that is about somebody who means harm comes first."""
        found = _found(*_hosts(1, 2), _host(3, forged=1), _host(4, lost=9000))
        self.assertEqual(len(found), 2)
        self.assertEqual(
            found[0],
            "host 10.0.0.3 received what claims to be the server's and is not, and kept none of it:"
            " somebody else sends to 239.238.0.31 port 18383; where it is one host, its memory may"
            " be bad",
        )

    def test_left_behind(self) -> None:
        [line] = _found(*_hosts(1, 2), _host(3, fetching="no DONE for 5 s"))
        self.assertEqual(
            line, "host 10.0.0.3 did not keep up, and got the rest by TCP: no DONE for 5 s"
        )

    def test_late(self) -> None:
        late = _host(3, sent=0, received=0, fetching="it came after the start", is_late=True)
        [line] = _found(*_hosts(1, 2), late)
        self.assertIn("host 10.0.0.3 came after the start", line)


class TellingTests(SynchronousTestCase):
    def test_no_more_than_ten_names(self) -> None:
        """However many hosts there are."""
        good, bad = _hosts(*range(1, 701)), _hosts(*range(701, 1001), lost=8000)
        [line] = _found(*good, *bad)
        self.assertIn("hosts 10.0.2.189, .190, .191,", line)
        self.assertIn(".198, and 290 more lost 8 %", line)

    def test_hosts_that_share_an_address(self) -> None:
        hosts = [
            replace(host, address="127.0.0.1") for host in (*_hosts(1, 2), _host(3, lost=9000))
        ]
        [line] = _found(*hosts)
        self.assertIn("host host-3 lost 9 %", line)

    def test_no_more_than_a_few_lines(self) -> None:
        everything = (
            *_hosts(1, 2, 3, answering_s=1.0, writing_s=29.0),
            _host(4, lost=9000, damaged=9000),
            _host(5, dropped=500, lost=500),
            _host(6, sent=9000, lost=9000, received=0),
            _host(7, answering_s=29.0, writing_s=29.0),
            _host(8, fetching="it came after the start", is_late=True, sent=0),
            _host(9, fetching="no DONE for 5 s"),
        )
        self.assertEqual(len(_found(*everything)), 6)

    def test_what_a_host_says_of_itself(self) -> None:
        self.assertEqual(diagnose_host(_host(1, lost=5000)), [])
        self.assertEqual(
            diagnose_host(
                _host(1, lost=50, dropped=40, buffer_bytes=1, buffer_wanted_bytes=25_164_560)
            ),
            [
                "this host dropped 40 datagrams in its receive buffer: raise net.core.rmem_max to"
                " 25164560"
            ],
        )


class MeasuredTests(MemoryTestCase):
    """Facts as they are measured, in distributions that go wrong."""

    def test_a_slow_disk(self) -> None:
        network = Network()
        server = network.serve(bytes(400_000), clients=3, buffer_packets=100)
        slow, *_ = [network.join(threads=True) for _ in range(3)]
        disk = slow.threads["disk"]
        run = disk.run

        def run_slowly(function: Any, *args: Any) -> Any:
            return run(function, *args).addCallback(
                lambda result: deferLater(slow.host, 0.5, lambda: result)
            )

        self.patch(disk, "run", run_slowly)
        network.run_until(lambda: server.outcome is not None)
        assert server.outcome is not None
        report = server.outcome.report
        self.assertEqual(
            report["diagnosis"],
            ["host 10.0.1.1 waited for the disk, and the rest did not: look at its health"],
        )
        self.assertGreater(report["clients"][0]["seconds_writing"], 2.0)
        self.assertLess(report["clients"][1]["seconds_writing"], 0.5)

    def test_nobody_hears(self) -> None:
        network = Network(1, Weather(loss=1.0))
        server = network.serve(bytes(100_000), clients=3, buffer_packets=100)
        for _ in range(3):
            network.join()
        network.run_until(lambda: server.outcome is not None)
        assert server.outcome is not None
        [line] = server.outcome.report["diagnosis"]
        self.assertTrue(line.startswith("no host received any multicast of 239."), line)

    def test_all_is_well(self) -> None:
        network = Network()
        server = network.serve(bytes(100_000), clients=3, buffer_packets=100)
        for _ in range(3):
            network.join()
        self.assertEqual(server.finish().report["diagnosis"], [])
