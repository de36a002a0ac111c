"""What operators are told of a run, as made of one value."""

from __future__ import annotations

import dataclasses
import json

from twisted.trial.unittest import SynchronousTestCase

from kollacast.operator.config import ServerConfig
from kollacast.operator.outcome import Status
from kollacast.sending.plan import offer
from kollacast.server.cycle import Stage
from kollacast.server.record import ClientRecord
from kollacast.server.snapshot import ClientEntry, HostState, Snapshot
from kollacast.wire.checksum import best_crc32c
from tests.simulation.image import MemorySource
from tests.simulation.network import Network
from tests.simulation.testcase import MemoryTestCase

_ENGINE, _ = best_crc32c()
_CONFIG = ServerConfig("10.0.0.1", 2, 18383, "239.0.0.1", 1, 1500)


def _entry(number: int, place: str | None, **account: object) -> ClientEntry:
    record = ClientRecord(f"host{number}", f"10.0.1.{number}")
    return ClientEntry(dataclasses.replace(record, **account), place)  # type: ignore[arg-type]


def _snapshot(*clients: ClientEntry, stage: Stage = Stage.SENDING) -> Snapshot:
    return Snapshot(
        config=_CONFIG,
        plan=offer(_CONFIG, _ENGINE, size=2_000_000, identity="image"),
        name="kolla.tgz",
        stage=stage,
        seconds=2.0,
        bytes_done=1_000_000,
        digests={"sha256": b"\xab\xcd"},
        packets_multicast=685,
        packets_coded=3,
        packets_resent=4,
        bytes_multicast=1_003_000,
        bytes_tcp=3000,
        rate_bps=None,
        buffers_in_flight=1,
        connections=len(clients),
        reads_waiting=0,
        present=sum(c.account.verified or c.place is not None for c in clients),
        verified=sum(c.account.verified for c in clients),
        packets_repaired=sum(c.account.packets_repaired for c in clients),
        clients=clients,
    )


_DONE = _entry(1, None, verified=True, packets_repaired=5)
_HERE = _entry(2, "in step", packets_repaired=2)
_GONE = _entry(2, None, reason="the connection was lost")


class SnapshotTests(SynchronousTestCase):
    """Values in, words out."""

    def test_progress(self) -> None:
        progress = _snapshot(_DONE, _HERE).progress()
        self.assertEqual((progress.phase, progress.bytes_done), ("sending", 1_000_000))
        self.assertEqual((progress.bytes_total, progress.packets_repaired), (2_000_000, 7))
        self.assertEqual((progress.clients, progress.clients_expected), (2, 2))
        # Who has gone without the image takes no part; in the end, only who has it counts.
        self.assertEqual(_snapshot(_DONE, _GONE).progress().clients, 1)
        self.assertEqual(_snapshot(_DONE, _HERE, stage=Stage.ENDED).progress().clients, 1)

    def test_how_hosts_stand(self) -> None:
        for place, more, state in (
            ("in step", {}, HostState.RECEIVING),
            ("in step", {"packets_owed": 1}, HostState.REPAIRING),
            ("in step", {"owes": "DONE", "owed_s": 2.0}, HostState.RECEIVING),
            ("in step", {"owes": "REPORT"}, HostState.VERIFYING),
            ("joining late", {}, HostState.RECEIVING),
            ("out of step", {}, HostState.DETACHED),
            ("fetching", {}, HostState.DETACHED),
            ("fetching", {"owes": "REPORT"}, HostState.VERIFYING),
            (None, {}, HostState.FAILED),
        ):
            entry = dataclasses.replace(_entry(1, place), **more)
            self.assertIs(_snapshot(entry).state(entry), state, (place, more))
        self.assertIs(_snapshot(_DONE).state(_DONE), HostState.VERIFIED)
        waiting = _snapshot(_HERE, stage=Stage.GATHERING)
        self.assertIs(waiting.state(_HERE), HostState.WAITING)
        told = dataclasses.replace(_CONFIG, unicast=True)
        unicast = dataclasses.replace(_snapshot(), config=told)
        self.assertIs(unicast.state(_entry(1, "fetching")), HostState.UNICAST)
        self.assertEqual(
            _snapshot(_GONE, _HERE, _DONE, _HERE).states(),
            {HostState.RECEIVING: 2, HostState.VERIFIED: 1, HostState.FAILED: 1},
        )

    def test_who_is_behind(self) -> None:
        def at(number: int, packets: int, owed_s: float = 0.0) -> ClientEntry:
            entry = _entry(number, "in step")
            return dataclasses.replace(entry, packets_done=packets, owed_s=owed_s)

        slow, held, even, first = at(3, 100), at(4, 500, 1.0), at(5, 500), at(6, 900)
        snapshot = _snapshot(_DONE, first, even, held, slow, _GONE)
        self.assertEqual(snapshot.slowest(3), [slow, held, even])
        self.assertEqual(snapshot.slowest(9), [slow, held, even, first])
        self.assertEqual(snapshot.bytes_of(slow), 100 * snapshot.plan.capacity)
        self.assertEqual(snapshot.bytes_of(_DONE), 2_000_000)
        self.assertEqual(snapshot.bytes_of(at(1, 1 << 30)), 2_000_000)

    def test_every_stage_has_a_word(self) -> None:
        words = [_snapshot(stage=stage).progress().phase for stage in Stage]
        self.assertEqual(
            words,
            ["starting", "waiting for clients", "sending", "verifying", "verifying", "ending"],
        )

    def test_outcomes(self) -> None:
        second = _entry(2, None, verified=True)
        for clients, reason, status, line in (
            (
                (_DONE, second),
                None,
                Status.OK,
                "2 of 2 clients have the image: 1000000 bytes in 2.0 s (0.5 MB/s), sha256 abcd",
            ),
            (
                (_DONE, second),
                "interrupted",  # and it has cost nobody anything
                Status.OK,
                "2 of 2 clients have the image: 1000000 bytes in 2.0 s (0.5 MB/s), sha256 abcd",
            ),
            (
                (_DONE, _GONE),
                None,
                Status.PARTIAL,
                "1 of 2 clients have the image; without: host2 (10.0.1.2): the connection was lost",
            ),
            ((_DONE,), None, Status.PARTIAL, "1 of 2 clients have the image, 1 never came"),
            (
                (_DONE, _GONE),
                "interrupted",
                Status.PARTIAL,
                "interrupted; 1 of 2 have the image; without: host2 (10.0.1.2): the connection was"
                " lost",
            ),
            (
                (_entry(1, None, reason="interrupted"), _GONE),
                "interrupted",
                Status.FAILED,
                "interrupted; without: host2 (10.0.1.2): the connection was lost",
            ),
            ((), "no client is left", Status.FAILED, "no client is left"),
        ):
            outcome = _snapshot(*clients, stage=Stage.ENDED).outcome(reason)
            self.assertEqual((outcome.status, outcome.line), (status, line))
            self.assertEqual(outcome.report["reason"], None if status is Status.OK else reason)
            json.dumps(outcome.report)

    def test_a_thousand_are_a_count_and_ten_names(self) -> None:
        """The line is bounded, and the report has all."""
        gone = [_entry(number, None, reason="x" * 200) for number in range(1000)]
        snapshot = dataclasses.replace(_snapshot(stage=Stage.ENDED), clients=tuple(gone))
        outcome = snapshot.outcome(None)
        self.assertEqual(outcome.line.count("host"), 10)
        self.assertTrue(outcome.line.endswith("; and 990 more"), outcome.line)
        self.assertLess(len(outcome.line), 3000)
        self.assertEqual(len(outcome.report["clients"]), 1000)


class MomentTests(MemoryTestCase):
    """A value of one moment, which time does not change."""

    def test_it_stays_as_it_was(self) -> None:
        network = Network()
        server = network.serve(bytes(1000), clients=2)
        raw = network.raw_client()
        raw.hello()
        before = server.snapshot
        [entry] = before.clients
        self.assertEqual((entry.account.name, entry.place), ("raw", "in step"))
        self.assertIs(before.stage, Stage.GATHERING)
        network.join()
        network.settle()
        now = server.snapshot
        self.assertEqual([entry.answers_due for entry in now.clients], [1, 0])
        raw.ready()
        raw.request(0, 1)
        self.assertEqual(server.snapshot.packets_repaired, 2)
        [entry, _other] = server.snapshot.clients
        self.assertEqual((entry.account.packets_sent, entry.account.packets_lost), (4, 2))
        self.assertEqual(entry.account.loss, 0.5)
        self.assertEqual(entry.owes, "DONE")
        network.run_for(1.5)
        raw.done()
        network.settle()
        [entry, _other] = server.snapshot.clients
        self.assertEqual(entry.packets_done, 4)
        self.assertGreaterEqual(entry.account.seconds_answering, 1.5)
        self.assertEqual(before.packets_repaired, 0)
        self.assertEqual(len(before.clients), 1)

    def test_who_is_waited_for(self) -> None:
        """One that stands still holds up the others, until it leaves the barrier."""
        network = Network()
        image = MemorySource(bytes(40_005), identity="file")
        server = network.serve(image, clients=2, patience_s=50.0)
        slow = network.join(threads=True)
        network.settle()
        slow.threads["disk"].held = True
        network.join()
        network.run_until(lambda: server.snapshot.holding(1.0))
        now = server.snapshot
        self.assertEqual([(c.account.name, c.owes) for c in now.holding(1.0)], [("host1", "DONE")])
        self.assertEqual(now.holding(2.0), [])
        network.run_until(lambda: server.snapshot.clients[0].place == "out of step")
        network.run_for(2.0)
        now = server.snapshot
        self.assertIs(now.state(now.clients[0]), HostState.DETACHED)
        self.assertGreater(now.clients[0].owed_s, 1.0)
        self.assertEqual(now.holding(1.0), [])

    def test_bytes(self) -> None:
        """What left by TCP counts also once the connection is closed."""
        network = Network()
        server = network.serve(bytes(3000), clients=2)
        raw = network.raw_client()
        network.join()
        network.settle()
        raw.hello()
        raw.ready()
        before = server.snapshot
        packet = before.plan.capacity + 12
        self.assertEqual(before.bytes_multicast, before.packets_multicast * packet)
        self.assertGreater(before.bytes_multicast, 0)
        raw.request(0, 1)
        sent = server.snapshot.bytes_tcp - before.bytes_tcp
        self.assertGreater(sent, 2 * before.plan.capacity)
        self.assertLess(sent, 3 * before.plan.capacity)
        at_the_end = server.snapshot.bytes_tcp
        raw.transport.loseConnection()
        network.settle()
        self.assertEqual(server.snapshot.connections, 0)
        self.assertGreaterEqual(server.snapshot.bytes_tcp, at_the_end)
