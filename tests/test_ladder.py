"""Clients that are not in step: late, slow, returning, or out of the multicast's reach."""

from __future__ import annotations

import hashlib
import os
from ipaddress import IPv4Network
from random import Random
from typing import Any
from weakref import WeakSet

from twisted.logger import capturedLogs, formatEvent

from kollacast.files.spool import Spool
from kollacast.operator.outcome import Status
from kollacast.packets.buffer import PacketBuffer
from kollacast.receiving import reception
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Hello, encode_json
from kollacast.wire.messages import (
    Ask,
    BufferCtl,
    Credit,
    Detach,
    Digest,
    Fetch,
    Report,
    Request,
    Sent,
)
from kollacast.wire.structures import Tag
from tests.simulation.image import MemorySink, MemorySource
from tests.simulation.multicast import MemoryReceivePort
from tests.simulation.network import Network
from tests.simulation.raw_ends import RawClient
from tests.simulation.runs import ClientRun, ServerRun
from tests.simulation.settings import BUFFER_PACKETS, CAPACITY
from tests.simulation.testcase import MemoryTestCase

_IMAGE = Random(1).randbytes(40 * CAPACITY + 5)
_DIGEST = hashlib.sha256(_IMAGE).hexdigest()
_OTHER = Random(5).randbytes(len(_IMAGE))


class _LadderTestCase(MemoryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.network = Network()

    def serve(
        self, image: bytes = _IMAGE, identity: str | None = "file", **options: Any
    ) -> ServerRun:
        # One that holds up the others for a few seconds may do so, unless a test is about that.
        options = {"patience_s": 100.0, **options}
        return self.network.serve(MemorySource(image, identity=identity), **options)

    def assert_whole(self, *clients: ClientRun, image: bytes = _IMAGE) -> None:
        for client in clients:
            outcome = client.finish()
            self.assertEqual(outcome.status, Status.OK, outcome.line)
            self.assertEqual(client.sink.data, image)
            self.assertTrue(client.sink.is_committed)
            self.assertEqual(outcome.report["sha256"], hashlib.sha256(image).hexdigest())

    def entry(self, server: ServerRun, name: str) -> dict[str, Any]:
        assert server.outcome is not None
        (entry,) = [e for e in server.outcome.report["clients"] if e["name"] == name]
        return dict(entry)

    def begin(self, **options: Any) -> tuple[ServerRun, ClientRun, ClientRun]:
        """Two clients, the first of which does not write: the session stands still."""
        server = self.serve(clients=2, **options)
        slow = self.network.join(threads=True)
        self.network.settle()
        slow.threads["disk"].held = True
        quick = self.network.join()
        self.network.settle()
        return server, slow, quick


class SlowTests(_LadderTestCase):
    """A client that holds up the others goes on by itself."""

    def test_the_others_go_on_at_once(self) -> None:
        server, slow, quick = self.begin(patience_s=5.0)
        self.network.run_for(0.4)
        self.assertIsNone(quick.outcome)
        self.network.run_for(0.4)
        self.assert_whole(quick)
        self.assertIsNone(server.outcome)
        slow.threads["disk"].release()
        self.assert_whole(slow)
        self.assertEqual(server.finish().status, Status.OK)
        entry = self.entry(server, "host1")
        # More than a tenth of the patience; by how much, how the looks fall decides.
        self.assertRegex(entry["fetching"], r"\Ait has taken 0\.5\d s of the others' time\Z")
        # A window had come before.
        self.assertEqual(entry["packets_fetched"], 41 - 4 * BUFFER_PACKETS)
        self.assertIsNone(self.entry(server, "host2")["fetching"])
        self.assert_all_gone(self.network)

    def test_one_that_never_moves_again_is_given_up(self) -> None:
        server, slow, quick = self.begin(client_timeout_s=60.0, patience_s=5.0)
        slow.host.vanish()
        self.assert_whole(quick)
        outcome = server.finish(limit_s=80.0)
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assertEqual(self.entry(server, "host1")["reason"], "no FETCH for 60 s")

    def test_one_that_cannot_fetch_is_out(self) -> None:
        server = self.serve(clients=2, patience_s=5.0)
        raw = self.network.raw_client()
        raw.hello()
        quick = self.network.join()
        self.network.run_for(0.8)
        self.assert_whole(quick)
        self.assertEqual(raw.count(Detach), 0)
        self.assertEqual(server.finish().status, Status.PARTIAL)
        self.assertRegex(
            self.entry(server, "raw")["reason"],
            r"\Ait has taken 0\.5\d s of the others' time, and it cannot fetch\Z",
        )

    def test_nobody_is_detached_where_the_past_is_gone(self) -> None:
        _, slow, quick = self.begin(identity=None)
        self.network.run_for(30.0)
        self.assertIsNone(quick.outcome)
        slow.threads["disk"].release()
        self.assert_whole(slow, quick)

    def test_a_client_alone_holds_nobody_up(self) -> None:
        server = self.serve()
        slow = self.network.join(threads=True)
        self.network.run_until(lambda: slow.phase == "receiving")
        slow.threads["disk"].held = True
        self.network.run_for(30.0)
        self.assertIsNone(slow.outcome)
        slow.threads["disk"].release()
        self.assert_whole(slow)
        server.finish()
        self.assertIsNone(self.entry(server, "host1")["fetching"])

    def _detached_with_the_digest(self) -> tuple[ServerRun, RawClient]:
        """A client that was told all there is, and owes the last DONEs to the others."""
        server = self.serve(clients=2, patience_s=50.0, window=4)
        raw, other = self.network.raw_client(), self.network.raw_client()
        for client, name in ((raw, "raw"), (other, "other")):
            client.send(Hello(name, 1 << 20, fetch=True).encode())
            client.answer(BufferCtl)
        other.answer(Sent)
        answered: list[Sent] = []
        while not raw.count(Digest):
            self.network.run_until(lambda: raw.count(Sent) > len(answered))
            raw.done()
            answered.append(raw.last(Sent))
        self.undone = raw.count(Sent) - len(answered)
        self.assertGreater(self.undone, 0)
        self.assertEqual(raw.count(Detach), 0)
        self.network.run_until(lambda: raw.count(Detach))
        other.answer(Digest)
        self.assertIsNone(server.outcome)
        return server, raw

    def test_one_that_has_the_digest_and_has_crossed_the_rest(self) -> None:
        server, raw = self._detached_with_the_digest()
        for _ in range(self.undone):
            raw.done()
        raw.report()
        self.assertEqual(server.finish().status, Status.OK)
        self.assertEqual(raw.count(Digest), 1)

    def test_one_that_has_the_digest_is_not_told_it_again(self) -> None:
        server, raw = self._detached_with_the_digest()
        raw.send(Fetch(40, 2).encode(KOLLACAST))
        self.assertEqual(raw.last(BufferCtl).packet_id_base, 41)
        raw.report()
        self.assertEqual(server.finish().status, Status.OK)
        self.assertEqual(raw.count(Digest), 1)

    def test_one_that_has_the_digest_and_says_nothing_more(self) -> None:
        server, raw = self._detached_with_the_digest()
        raw.host.vanish()
        self.assertEqual(server.finish().status, Status.PARTIAL)
        self.assertEqual(self.entry(server, "raw")["reason"], "the connection was lost")

    def test_all_are_slow(self) -> None:
        """Then it is none of them that holds up the others."""
        server = self.serve(clients=2)
        clients = [self.network.join(threads=True) for _ in range(2)]
        self.network.run_until(lambda: clients[1].phase == "receiving")
        for client in clients:
            client.threads["disk"].held = True
        self.network.run_for(30.0)
        self.assertIsNone(server.outcome)
        for client in clients:
            client.threads["disk"].release()
        self.assert_whole(*clients)
        server.finish()
        self.assertIsNone(self.entry(server, "host1")["fetching"])


class TooLittleTests(_LadderTestCase):
    """A host that can hold far less than the others is served apart from the beginning."""

    def begin_with(
        self, packets: int, identity: str | None = "file"
    ) -> tuple[ServerRun, RawClient]:
        server = self.serve(identity=identity, clients=3)
        raw = self.network.raw_client()
        raw.send(Hello("raw", packets, fetch=True).encode())
        self.others = [self.network.join() for _ in range(2)]
        self.assert_whole(*self.others)
        return server, raw

    def test_one_packet(self) -> None:
        server, raw = self.begin_with(1)
        self.assertEqual(raw.count(Detach), 1)
        # The others have it in buffers as large as ever.
        self.assertEqual(server.snapshot.plan.buffer_packets, BUFFER_PACKETS)
        self.assertEqual(server.snapshot.plan.window, 4)
        raw.send(Fetch(0, 50).encode(KOLLACAST))
        raw.report()
        self.assertEqual(server.finish().status, Status.OK)
        fetching = self.entry(server, "raw")["fetching"]
        self.assertEqual(fetching, "it holds 1 packets, and 8 are the least")

    def test_half_is_enough(self) -> None:
        server = self.serve(clients=2)
        self.network.raw_client().send(Hello("raw", 8, fetch=True).encode())
        self.network.join()
        self.network.run_for(0.1)
        self.assertEqual(server.snapshot.plan.window, 2)
        server.server.interrupt("interrupted")

    def test_where_the_past_is_gone_it_is_out(self) -> None:
        server, raw = self.begin_with(1, identity=None)
        self.assertEqual(
            raw.last(Report).fields["reason"],
            "it holds 1 packets, and 2 are the least, and its input is a pipe, which is not read"
            " twice without --spool",
        )
        self.assertEqual(server.finish().status, Status.PARTIAL)

    def test_all_hold_little(self) -> None:
        server = self.serve(clients=1)
        raw = self.network.raw_client()
        raw.send(Hello("raw", 1, fetch=True).encode())
        self.network.run_for(0.1)
        self.assertEqual(raw.count(Detach), 0)
        self.assertEqual(server.snapshot.plan.buffer_packets, 1)
        server.server.interrupt("interrupted")


class UnreachedTests(_LadderTestCase):
    """Multicast does not get to one of the clients."""

    def _serve(self, identity: str | None) -> tuple[ServerRun, ClientRun, ClientRun]:
        self.image = Random(2).randbytes(1000 * CAPACITY)
        server = self.serve(self.image, identity, clients=2, buffer_packets=64)
        there, beyond = self.network.join(), self.network.join()

        def fate(port: MemoryReceivePort, data: bytes) -> tuple[bytes, ...]:
            return () if port.host is beyond.host else (data,)

        self.network.fate = fate
        return server, there, beyond

    def test_it_goes_on_by_itself(self) -> None:
        server, there, beyond = self._serve("file")
        self.assert_whole(there, beyond, image=self.image)
        self.assertEqual(server.finish().status, Status.OK)
        entry = self.entry(server, "host2")
        self.assertEqual(entry["fetching"], "no multicast reaches it")
        self.assertLess(entry["packets_repaired"], 500)
        self.assertGreater(entry["packets_fetched"], 500)
        self.assert_all_gone(self.network)

    def _stop(self, identity: str | None, beyond: int, **options: Any) -> tuple[Any, ...]:
        """Multicast stops, for good, at the first ``beyond`` of three hosts."""
        self.image = Random(2).randbytes(4000 * CAPACITY)
        server = self.serve(self.image, identity, clients=3, buffer_packets=64, **options)
        clients = [self.network.join() for _ in range(3)]
        lost = [client.host for client in clients[:beyond]]
        heard = 0

        def fate(port: MemoryReceivePort, data: bytes) -> tuple[bytes, ...]:
            nonlocal heard
            heard += data[0] < 0x80
            return () if heard > 2000 and port.host in lost else (data,)

        self.network.fate = fate
        with capturedLogs() as events:
            self.assert_whole(*clients, image=self.image)
            self.assertEqual(server.finish().status, Status.OK)
        self.assert_all_gone(self.network)
        return server, clients, [formatEvent(event) or "" for event in events]

    def test_it_stops_at_one_host(self) -> None:
        server, clients, said = self._stop("file", 1)
        told = [line for line in said if "multicast has stopped reaching this host" in line]
        self.assertEqual(len(told), 1)
        self.assertIn("since buffer ", told[0])
        self.assertIn("querier", told[0])
        # A switch that has forgotten the host may hear of it so.
        self.assertEqual([client.host.rejoined for client in clients], [1, 0, 0])
        entry = self.entry(server, "host1")
        self.assertEqual(entry["fetching"], "multicast has stopped reaching it")
        self.assertGreater(entry["packets_fetched"], 1000)
        self.assertIsNone(self.entry(server, "host2")["fetching"])

    def test_it_stops_everywhere(self) -> None:
        """Then nothing is multicast in vain, whether they fetch or are served in step."""
        for identity in ("file", None):
            self.network = Network()
            server, _, said = self._stop(identity, 3)
            told = [line for line in said if "multicast has stopped reaching this host" in line]
            self.assertEqual(len(told), 3)
            told = [line for line in said if "multicast reaches none of 3 clients" in line]
            self.assertEqual(len(told), 1)
            report = server.outcome.report
            self.assertLess(report["packets_multicast"] + report["packets_coded"], 2500)

    def test_it_is_away_for_as_long_as_a_window(self) -> None:
        """A link that was down: nobody leaves the others for that."""
        self.image = Random(2).randbytes(2000 * CAPACITY)
        server = self.serve(self.image, "file", clients=2, buffer_packets=64)
        clients = [self.network.join() for _ in range(2)]
        heard = 0

        def fate(port: MemoryReceivePort, data: bytes) -> tuple[bytes, ...]:
            nonlocal heard
            heard += data[0] < 0x80
            is_away = 1000 < heard <= 1000 + 2 * 64 * 4
            return () if is_away and port.host is clients[0].host else (data,)

        self.network.fate = fate
        self.assert_whole(*clients, image=self.image)
        self.assertEqual(server.finish().status, Status.OK)
        self.assertIsNone(self.entry(server, "host1")["fetching"])

    def test_it_comes_back_where_it_was_given_up(self) -> None:
        """Clients that are served in step receive again, and it is said."""
        self.image = Random(2).randbytes(4000 * CAPACITY)
        server = self.serve(self.image, None, clients=2, buffer_packets=64)
        clients = [self.network.join() for _ in range(2)]
        heard = 0

        def fate(port: MemoryReceivePort, data: bytes) -> tuple[bytes, ...]:
            nonlocal heard
            heard += data[0] < 0x80
            return () if 1000 < heard <= 2000 else (data,)

        self.network.fate = fate
        with capturedLogs() as events:
            self.assert_whole(*clients, image=self.image)
            self.assertEqual(server.finish().status, Status.OK)
        said = [formatEvent(event) or "" for event in events]
        for text, count in (
            ("multicast reaches none of 2 clients", 1),
            ("multicast reaches this host again", 2),
            ("multicast reaches client host", 2),
        ):
            self.assertEqual(sum(text in line for line in said), count, text)

    def test_repairs_do_where_the_past_is_gone(self) -> None:
        server, there, beyond = self._serve(None)
        self.assert_whole(there, beyond, image=self.image)
        self.assertEqual(server.finish().status, Status.OK)
        self.assertEqual(self.entry(server, "host2")["packets_repaired"], 1000)


class LateTests(_LadderTestCase):
    """Clients that come after the start."""

    def test_a_late_client_is_served(self) -> None:
        server, slow, _ = self.begin()
        slow.host.vanish()
        self.network.run_for(80.0)
        self.assertIsNotNone(server.outcome)
        server, slow, quick = self.begin()
        slow.client.interrupt("interrupted")
        quick.host.vanish()
        self.network.settle()
        late = self.network.join()
        self.network.settle()
        self.assert_whole(late)
        outcome = server.finish()
        entry = self.entry(server, late.config.name)
        self.assertEqual(entry["fetching"], "it came after the start")
        self.assertEqual(entry["packets_fetched"] + entry["packets_multicast"], 41)
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assertNotIn(late.host, [port.host for port in self.network.ports])

    def test_one_too_many_is_refused(self) -> None:
        self.begin()
        late = self.network.join()
        self.assertEqual(
            late.finish().line, "the server refuses this client: all 2 clients are here already"
        )

    def test_without_a_past_it_is_refused_with_the_reason(self) -> None:
        self.begin(identity=None)
        late = self.network.join()
        self.assertEqual(
            late.finish().line,
            "the server refuses this client: the session has begun without this client, and"
            " its input is a pipe, which is not read twice without --spool",
        )

    def test_from_a_spool(self) -> None:
        server, slow, quick = self.begin(identity=None, spool=Spool(self._folder(), 10_000))
        quick.client.interrupt("interrupted")
        self.network.settle()
        late = self.network.join()
        self.assert_whole(late)
        slow.threads["disk"].release()
        self.assert_whole(slow)
        self.assertEqual(server.finish().status, Status.OK)

    def test_a_spool_that_is_too_small(self) -> None:
        spool = Spool(self._folder(), 100)
        server, slow, quick = self.begin(identity=None, spool=spool)
        late = self.network.join()
        self.assertEqual(
            late.finish().line,
            "the server refuses this client: the session has begun without this client, and"
            " the spool holds 100 bytes, and the image has more",
        )
        slow.threads["disk"].release()
        self.assert_whole(slow, quick)
        self.assertEqual(server.finish().status, Status.OK)

    def _folder(self) -> str:
        folder = self.mktemp()
        os.makedirs(folder)
        return folder


class LateJoinTests(_LadderTestCase):
    """A late client fetches what was before, and receives the rest with the others."""

    def two(self, server_threads: bool = False) -> tuple[ServerRun, ClientRun, ClientRun]:
        """Two of three clients, and a window of announced buffers; the session stands still."""
        server = self.serve(clients=3, min_clients=2, accept_timeout_s=1.0, threads=server_threads)
        slow, quick = self.network.join(threads=True), self.network.join()
        self.network.settle()
        slow.threads["disk"].held = True
        self.network.run_for(1.5)
        return server, slow, quick

    def late(
        self, server_threads: bool = False, **options: Any
    ) -> tuple[ServerRun, ClientRun, ClientRun, ClientRun]:
        """These two, and the third client."""
        return *self.two(server_threads), self.network.join(**options)

    def test_nothing_is_sent_twice(self) -> None:
        server, slow, quick, late = self.late()
        self.network.run_for(0.5)
        slow.threads["disk"].release()
        self.assert_whole(slow, quick, late)
        outcome = server.finish()
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(outcome.report["packets_multicast"], 41)
        entry = self.entry(server, "host3")
        self.assertEqual(entry["fetching"], "it came after the start")
        # A window, and one that was announced ahead of it.
        self.assertEqual(entry["packets_fetched"], 5 * BUFFER_PACKETS)
        self.assertEqual(entry["packets_multicast"], 41 - 5 * BUFFER_PACKETS)
        self.assert_all_gone(self.network)

    def test_all_is_announced_but_the_end(self) -> None:
        """What it fetches then reaches the image's last packet, which is short."""
        server = self.serve(_IMAGE[:20], clients=3, min_clients=2, accept_timeout_s=1.0, window=1)
        slow, quick = self.network.join(threads=True), self.network.join()
        self.network.settle()
        slow.threads["disk"].held = True
        self.network.run_for(1.5)
        late = self.network.join()
        self.network.settle()
        slow.threads["disk"].release()
        self.assert_whole(slow, quick, late, image=_IMAGE[:20])
        self.assertEqual(server.finish().status, Status.OK)

    def test_a_stream_gets_all_in_order(self) -> None:
        sink = MemorySink()
        sink.is_stream = True
        server, slow, quick, late = self.late(sink=sink)
        slow.threads["disk"].release()
        self.assert_whole(slow, quick, late)
        server.finish()
        self.assertEqual(self.entry(server, "host3")["packets_fetched"], 41)

    def raw(self, packets: int) -> tuple[list[ClientRun], RawClient]:
        """The others, and a third client that says what a test wants."""
        _, *others = self.two()
        raw = self.network.raw_client()
        raw.send(Hello("raw", packets, fetch=True, pull=True, late_join=True).encode())
        return others, raw

    def finish(self, slow: ClientRun, quick: ClientRun) -> None:
        slow.threads["disk"].release()
        self.assert_whole(slow, quick)

    def test_one_that_holds_too_little(self) -> None:
        """It is told to fetch all of it, and nobody waits for it."""
        others, raw = self.raw(packets=1)
        self.assertEqual(raw.count(Detach), 1)
        self.assertEqual(raw.count(BufferCtl), 0)
        self.finish(*others)

    def test_multicast_passes_it_by(self) -> None:
        self.image = Random(2).randbytes(2000 * CAPACITY)
        server = self.serve(
            self.image, clients=3, min_clients=2, accept_timeout_s=1.0, buffer_packets=64
        )
        slow, quick = self.network.join(threads=True), self.network.join()
        self.network.settle()
        slow.threads["disk"].held = True
        self.network.run_for(1.5)
        late = self.network.join()
        self.network.fate = lambda port, data: () if port.host is late.host else (data,)
        self.network.run_for(0.5)
        slow.threads["disk"].release()
        self.assert_whole(slow, quick, late, image=self.image)
        server.finish()
        entry = self.entry(server, "host3")
        self.assertEqual(entry["fetching"], "no multicast reaches it")
        self.assertEqual(entry["packets_multicast"], 0)

    def test_it_is_slow_itself(self) -> None:
        """The others go on without it, and it with what it has from the image's start on."""
        server, slow, quick, late = self.late(threads=True)
        self.network.run_until(lambda: late.phase == "waiting for the others")
        late.threads["disk"].held = True
        slow.threads["disk"].release()
        self.network.run_for(7.0)
        self.assert_whole(slow, quick)
        late.threads["disk"].release()
        self.assert_whole(late)
        self.assertEqual(server.finish().status, Status.OK)
        taken = self.entry(server, "host3")["fetching"]
        self.assertRegex(taken, r"it has taken 10 s of the others' time")
        self.assert_all_gone(self.network)

    def gap(self) -> tuple[ServerRun, ClientRun, ClientRun, ClientRun]:
        """What was before does not come, and the rest does."""
        server, slow, quick, late = self.late(threads=True, server_threads=True)
        server.threads["history"].held = True
        slow.threads["disk"].release()
        self.network.run_until(lambda: len(late.sink.data) == len(_IMAGE))
        self.assertEqual(late.sink.marked, 0)
        return server, slow, quick, late

    def test_it_loses_its_connection_before_the_gap_is_closed(self) -> None:
        server, slow, quick, late = self.gap()
        server.threads["history"].release()
        late.transport.reset()
        self.assert_whole(slow, quick, late)
        self.assertEqual(server.finish().status, Status.OK)
        self.assertGreater(self.entry(server, "host3")["packets_fetched"], 4 * BUFFER_PACKETS)

    def test_it_is_interrupted_before_the_gap_is_closed(self) -> None:
        """A later run takes up nothing from behind the gap."""
        _, slow, quick, late = self.gap()
        late.client.interrupt("interrupted")
        late.finish()
        self.assertTrue(late.sink.is_kept)
        self.assertEqual(late.sink.reopen().data, b"")
        self.assert_whole(slow, quick)

    def test_a_fetch_of_what_comes_by_multicast(self) -> None:
        others, raw = self.raw(packets=1 << 20)
        raw.send(bytes((Tag.FETCH,)) + bytes(7) + b"\x29")
        self.assertEqual(
            raw.last(Report).fields["reason"],
            "broke the protocol: a fetch of what comes by multicast",
        )
        self.finish(*others)


class ReturningTests(_LadderTestCase):
    """A client that loses its connection goes on from what it has."""

    def test_it_comes_back_and_goes_on(self) -> None:
        server, slow, quick = self.begin()
        quick.transport.reset()
        self.network.run_for(1.0)
        self.assert_whole(quick)
        slow.threads["disk"].release()
        self.assert_whole(slow)
        self.assertEqual(server.finish().status, Status.OK)
        entry = self.entry(server, "host2")
        self.assertEqual(entry["connections"], 2)
        # It had all that had been sent, and one more had been announced.
        self.assertEqual(entry["packets_fetched"], BUFFER_PACKETS)
        self.assertEqual(entry["packets_multicast"], 41 - BUFFER_PACKETS)
        self.assertIsNone(entry["reason"])
        self.assert_all_gone(self.network)

    def test_it_is_waited_for_at_the_end(self) -> None:
        server = self.serve()
        client = self.network.join()
        self.network.run_until(lambda: client.sink.data)
        client.transport.reset()
        self.assert_whole(client)
        self.assertEqual(server.finish().status, Status.OK)

    def test_the_server_has_not_noticed(self) -> None:
        """Its end of the old connection gives way to the new one."""
        server, slow, quick = self.begin()
        quick.transport.reset(peer_notices=False)
        self.network.run_for(1.0)
        self.assert_whole(quick)
        slow.threads["disk"].release()
        self.assert_whole(slow)
        self.assertEqual(server.finish().status, Status.OK)

    def test_a_host_that_comes_back_from_a_power_cut(self) -> None:
        """The server takes its old connection for a good one, until something is sent there."""
        server, slow, quick = self.begin(patience_s=60.0)
        quick.host.vanish()
        again = self.network.join(name=quick.config.name)
        again.host.address = quick.host.address
        self.network.run_for(5.0)
        self.assertIsNone(again.outcome)
        quick.host.boot()
        self.network.run_for(2.0)
        slow.threads["disk"].release()
        self.assert_whole(slow, again)
        self.assertEqual(server.finish().status, Status.OK)

    def test_one_more_of_the_same_name(self) -> None:
        """It may be one that is here already, and so it is refused only in the end."""
        server, slow, quick = self.begin(patience_s=60.0)
        again = self.network.join(name=quick.config.name, connect_timeout_s=3.0)
        again.host.address = quick.host.address
        self.assertEqual(
            again.finish(limit_s=10.0).line,
            "the server refuses this client: all 2 clients are here already",
        )
        slow.threads["disk"].release()
        self.assert_whole(slow, quick)
        self.assertEqual(server.finish().status, Status.OK)

    def test_nobody_is_there_any_more(self) -> None:
        server, _, quick = self.begin()
        server.host.listeners.clear()
        quick.transport.reset()
        outcome = quick.finish(limit_s=40.0)
        self.assertEqual(
            outcome.line,
            "the connection was lost, and no server at 10.0.0.1 port 18383 within 30 s:"
            " Connection refused",
        )
        self.assertTrue(quick.sink.is_kept)

    def test_a_restarted_client_goes_on(self) -> None:
        server, slow, quick = self.begin()
        self.network.run_for(0.5)
        quick.client.interrupt("interrupted")
        quick.finish()
        self.assertEqual(len(quick.sink.data), 4 * BUFFER_PACKETS * CAPACITY)
        again = self.network.join(sink=quick.sink.reopen())
        self.assert_whole(again)
        assert again.outcome is not None
        self.assertEqual(again.outcome.report["bytes_resumed"], 4 * BUFFER_PACKETS * CAPACITY)
        # One more buffer had been announced.
        self.assertEqual(again.outcome.report["packets_fetched"], BUFFER_PACKETS)
        self.assertEqual(again.outcome.report["packets_multicast"], 41 - 5 * BUFFER_PACKETS)
        slow.threads["disk"].release()
        self.assert_whole(slow)
        self.assertEqual(server.finish().status, Status.OK)

    def test_a_part_that_is_damaged_is_thrown_away(self) -> None:
        _, _, quick = self.begin()
        quick.client.interrupt("interrupted")
        quick.finish()
        sink = quick.sink.reopen()
        sink.data = bytes(len(sink.data))
        again = self.network.join(sink=sink)
        outcome = again.finish()
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertIn("the image is not the server's", outcome.line)
        self.assertFalse(sink.is_kept)

    def test_the_next_server_on_the_same_image(self) -> None:
        """Waiting clients find it, and go on where the slowest of them has been."""
        server, slow, quick = self.begin()
        server.host.kill()
        again = self.serve(clients=2)
        slow.threads["disk"].release()
        self.assert_whole(slow, quick)
        outcome = again.finish()
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(outcome.report["packets_multicast"], 41 - 4 * BUFFER_PACKETS)
        self.assertEqual(outcome.report["bytes"], len(_IMAGE))
        entry = self.entry(again, "host2")
        self.assertEqual(entry["fetching"], "it has a part of the image already")
        self.assertEqual(entry["packets_fetched"], 0)

    def test_the_next_server_and_a_client_that_has_nothing(self) -> None:
        """Everything is multicast for it, and those who have a part take it once more."""
        server, slow, quick = self.begin()
        slow.host.vanish()
        server.host.kill()
        again = self.serve(clients=2)
        fresh = self.network.join()
        self.assert_whole(fresh, quick)
        outcome = again.finish()
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(outcome.report["packets_multicast"], 41)
        self.assertEqual(self.entry(again, "host2")["packets_fetched"], 0)

    def test_the_next_server_on_another_image(self) -> None:
        server, slow, quick = self.begin()
        slow.threads["disk"].release()
        server.host.kill()
        other = Random(5).randbytes(2000)
        again = self.serve(other, "other file", clients=2)
        self.assert_whole(slow, quick, image=other)
        self.assertEqual(again.finish().status, Status.OK)

    def test_what_is_kept_of_another_image_is_never_taken_for_the_first(self) -> None:
        again = self.kept_of_another_image()
        self.serve(clients=1)
        self.assert_whole(self.network.join(sink=again))

    def test_what_is_kept_of_another_image_is_gone_on_from(self) -> None:
        again = self.kept_of_another_image()
        self.serve(_OTHER, "other file", clients=1)
        client = self.network.join(sink=again)
        self.assert_whole(client, image=_OTHER)
        assert client.outcome is not None
        self.assertEqual(client.outcome.report["bytes_resumed"], 4 * BUFFER_PACKETS * CAPACITY)

    def kept_of_another_image(self) -> MemorySink:
        """What a client has that began with one image and was interrupted at another one."""
        server, slow, quick = self.begin()
        self.network.run_for(0.5)
        slow.host.vanish()
        server.host.kill()
        other = self.serve(_OTHER, "other file", clients=3)
        slow = self.network.join(threads=True)
        self.network.settle()
        slow.threads["disk"].held = True
        self.network.join()
        self.network.run_until(lambda: quick.sink.data == _OTHER[: 4 * BUFFER_PACKETS * CAPACITY])
        quick.client.interrupt("interrupted")
        quick.finish()
        other.host.kill()
        slow.host.vanish()
        return quick.sink.reopen()

    def test_a_connection_that_is_over_costs_no_memory(self) -> None:
        """A client on a bad network comes back many times."""
        alive: WeakSet[PacketBuffer] = WeakSet()

        class Counted(PacketBuffer):
            def __init__(self, capacity: int, max_packets: int) -> None:
                super().__init__(capacity, max_packets)
                alive.add(self)

        self.patch(reception, "PacketBuffer", Counted)
        _, slow, quick = self.begin()
        self.network.run_for(0.5)
        both = len(alive)
        quick.transport.reset()
        self.network.run_for(0.5)
        self.assertEqual(len(alive), both // 2)
        slow.threads["disk"].release()
        self.assert_whole(slow, quick)

    def test_another_image_where_the_first_is_written_already(self) -> None:
        server, _, quick = self.begin()
        quick.sink.is_stream = True
        server.host.kill()
        self.serve(Random(5).randbytes(2000), "other file", clients=2)
        self.assertEqual(
            quick.finish().line,
            "the server has another image now, and a part of the first one is written already",
        )


class FailsafeTests(_LadderTestCase):
    """When nothing works, the client says where else the image is."""

    def _fail(self, client: ClientRun, status: Status, line: str) -> None:
        outcome = client.finish()
        self.assertEqual((outcome.status, outcome.line), (status, line))

    def test_nobody_is_there(self) -> None:
        client = self.network.join(connect_timeout_s=1.0, failsafe="registry.example:4000")
        self._fail(
            client,
            Status.FAILSAFE,
            "no server at 10.0.0.1 port 18383 within 1 s: Connection refused;"
            " the failsafe registry registry.example:4000 has the image",
        )
        assert client.outcome is not None
        self.assertEqual(client.outcome.report["failsafe"], "registry.example:4000")

    def test_the_server_has_told(self) -> None:
        server = self.serve(clients=2, failsafe="registry.example:4000")
        client = self.network.join()
        self.network.settle()
        server.server.interrupt("interrupted")
        self._fail(
            client,
            Status.FAILSAFE,
            "the connection was lost, and no server at 10.0.0.1 port 18383 within 30 s:"
            " Connection refused; the failsafe registry registry.example:4000 has the image",
        )
        assert server.outcome is not None
        self.assertEqual(server.outcome.report["failsafe"], "registry.example:4000")

    def test_no_registry_helps_a_full_disk(self) -> None:
        self.serve(failsafe="registry.example:4000")
        client = self.network.join(sink=MemorySink(room=100))
        self._fail(client, Status.FAILED, "cannot write the image: No space left on device")


class NextServerTests(_LadderTestCase):
    """A server that waits is ended, for it was started with the wrong file or number."""

    def test_it_is_interrupted_and_started_on_another_image(self) -> None:
        """More than once, and each next server has all the time that a client gives to one."""
        client, stream = self.network.join(), self.network.join(sink=_stream())
        for _ in range(3):
            server = self.serve(b"the wrong one", clients=3)
            self.network.run_for(100.0)
            server.server.interrupt("interrupted")
            self.assertEqual(server.finish(limit_s=5.0).line, "interrupted")
            self.network.run_for(20.0)
        server = self.serve(clients=2)
        self.assert_whole(client, stream)
        self.assertEqual(server.finish().status, Status.OK)
        self.assert_all_gone(self.network)

    def test_it_is_killed_more_than_once(self) -> None:
        client = self.network.join()
        for _ in range(3):
            server = self.serve(clients=2)
            self.network.run_for(100.0)
            server.host.kill()
            self.network.run_for(20.0)
        server = self.serve(clients=1)
        self.assert_whole(client)

    def test_it_is_interrupted_as_a_client_comes(self) -> None:
        """Nobody has said yet who it is."""
        server = self.serve(clients=2)
        client = self.network.join()
        self.network.run_until(lambda: server.snapshot.connections)
        server.server.interrupt("interrupted")
        server.finish(limit_s=5.0)
        self.serve(clients=1)
        self.assert_whole(client)

    def test_nobody_follows(self) -> None:
        server = self.serve(clients=2)
        client = self.network.join()
        self.network.run_for(100.0)
        server.server.interrupt("interrupted")
        self.network.run_for(28.0)
        self.assertIsNone(client.outcome)
        self.assertIn("no server at", client.finish(limit_s=3.0).line)

    def test_what_is_said(self) -> None:
        server = self.serve(clients=2)
        self.network.join()
        self.network.settle()
        with capturedLogs() as events:
            server.server.interrupt("interrupted")
            self.network.run_for(10.0)
        self.assertEqual(
            [formatEvent(event) for event in events if "client" in event["log_namespace"]],
            ["the server gave up before it began: interrupted; looking for the next one for 30 s"],
        )


def _stream() -> MemorySink:
    sink = MemorySink()
    sink.is_stream = True
    return sink


class FewTests(_LadderTestCase):
    """Not all have come, or there are but a few."""

    def test_those_who_came_are_enough(self) -> None:
        server = self.serve(clients=3, min_clients=2, accept_timeout_s=10.0)
        clients = [self.network.join() for _ in range(2)]
        self.network.run_for(9.0)
        self.assertIsNone(clients[0].outcome)
        self.assert_whole(*clients)
        outcome = server.finish()
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assertEqual(outcome.report["clients_verified"], 2)

    def test_start_now_with_those_who_came(self) -> None:
        """Whatever else was asked for; those who are late have their turn."""
        server = self.serve(clients=3, min_clients=3, accept_timeout_s=100.0)
        early = self.network.join(threads=True)
        self.network.settle()
        early.threads["disk"].held = True
        server.server.start_now()
        self.network.settle()
        self.assertEqual(server.phase, "sending")
        late = self.network.join()
        self.network.run_for(1.0)
        early.threads["disk"].release()
        self.assert_whole(early, late)
        outcome = server.finish()
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assertEqual(outcome.line, "2 of 3 clients have the image, 1 never came")
        self.assertEqual(self.entry(server, "host2")["fetching"], "it came after the start")
        self.assert_all_gone(self.network)

    def test_start_now_without_anybody(self) -> None:
        server = self.serve(clients=2)
        with capturedLogs() as events:
            server.server.start_now()
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["asked to start now: no client has come yet, still waiting"],
        )
        client = self.network.join()
        self.network.settle()
        self.assertEqual(server.phase, "waiting for clients")
        server.server.start_now()
        self.assert_whole(client)

    def test_start_now_after_the_start(self) -> None:
        server = self.serve(clients=1)
        client = self.network.join(threads=True)
        self.network.run_until(lambda: server.phase == "sending")
        client.threads["disk"].held = True
        with capturedLogs() as events:
            server.server.start_now()
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["asked to start now: the session has started already"],
        )
        client.threads["disk"].release()
        self.assert_whole(client)
        self.assertEqual(server.finish().status, Status.OK)
        server.server.start_now()

    def test_who_is_here_after_half_a_minute(self) -> None:
        self.serve(clients=3)
        self.network.join()
        with capturedLogs() as events:
            self.network.run_for(29.0)
            self.assertEqual([formatEvent(e) for e in events if "pid" in e], [])
            self.network.run_for(2.0)
            self.network.run_for(270.0)
        self.assertEqual(
            [formatEvent(event) for event in events if "pid" in event],
            [
                "waiting for clients: 2 of 3 are missing; here: host1 (10.0.1.1)."
                f" To start now without the rest: kill -USR2 {os.getpid()}"
            ],
        )

    def test_too_few(self) -> None:
        server = self.serve(clients=3, min_clients=2, accept_timeout_s=10.0)
        client = self.network.join()
        self.assertEqual(server.finish(limit_s=11.0).status, Status.FAILED)
        self.assertEqual(client.finish().status, Status.FAILED)

    def test_one_that_gives_up_before_the_start_is_not_waited_for(self) -> None:
        """It has a minute to be started again; then the others begin, and the report names it."""
        server = self.serve(clients=2, client_timeout_s=60.0)
        leaving = self.network.join()
        self.network.settle()
        leaving.client.interrupt("interrupted")
        self.network.settle()
        staying = self.network.join()
        self.network.run_for(59.0)
        self.assertEqual(self.network.datagrams, [])
        self.assert_whole(staying)
        outcome = server.finish()
        self.assertEqual(outcome.status, Status.PARTIAL)
        self.assertIn("without: host1 (10.0.1.1): interrupted", outcome.line)
        self.assert_all_gone(self.network)

    def test_one_that_gives_up_and_is_started_again(self) -> None:
        server = self.serve(clients=2)
        leaving = self.network.join()
        self.network.settle()
        leaving.client.interrupt("interrupted")
        self.network.run_for(30.0)
        clients = [self.network.join(), self.network.join()]
        self.assert_whole(*clients)
        outcome = server.finish()
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(len(outcome.report["clients"]), 2)

    def test_all_give_up_before_the_start(self) -> None:
        server = self.serve(clients=2)
        for _ in range(2):
            client = self.network.join()
            self.network.settle()
            client.client.interrupt("interrupted")
            self.network.settle()
        outcome = server.finish(limit_s=61.0)
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertIn("no client is left; without: host1", outcome.line)
        self.assert_all_gone(self.network)

    def test_a_digest_that_is_long_in_coming(self) -> None:
        """Who has fetched all waits for it, and owes nothing meanwhile."""
        image = _IMAGE[: 2 * BUFFER_PACKETS * CAPACITY]
        server = self.serve(image, clients=2, unicast=True, client_timeout_s=20.0, threads=True)
        server.threads["digest"].held = True
        clients = [self.network.join() for _ in range(2)]
        self.network.run_for(60.0)
        self.assertIsNone(server.outcome)
        server.threads["digest"].release()
        self.assert_whole(*clients, image=image)
        self.assertEqual(server.finish().status, Status.OK)

    def test_unicast(self) -> None:
        self.network.host("10.0.0.1").port_error = OSError(1, "no multicast here")
        server = self.serve(clients=2, unicast=True)
        clients = [self.network.join() for _ in range(2)]
        for client in clients:
            client.host.port_error = OSError(1, "no multicast here")
        self.assert_whole(*clients)
        outcome = server.finish()
        self.assertEqual(outcome.status, Status.OK)
        self.assertEqual(self.network.datagrams, [])
        self.assert_all_gone(self.network)


class HostileTests(_LadderTestCase):
    """A client that abuses its fetches is cut off, and the session goes on."""

    def raw(self) -> RawClient:
        raw = self.network.raw_client()
        raw.send(_hello(pull=True))
        return raw

    def _offend(self, say: bytes, reason: str) -> None:
        self.network = Network()
        server = self.serve(clients=2)
        raw = self.raw()
        raw.send(say)
        good = self.network.join()
        if raw.lost is None:
            self.network.settle()
        self.assertEqual(raw.last(Report).fields["reason"], f"broke the protocol: {reason}")
        if server.server.progress().clients < 2 and good.outcome is None:
            self.network.join()
        self.assert_whole(good)

    def test_offences(self) -> None:
        fetch = bytes((Tag.FETCH,))
        self._offend(
            fetch + (0).to_bytes(4, "big") + (10**9).to_bytes(4, "big"),
            "a fetch of 1000000000 packets from 0 on",
        )
        self._offend((fetch + bytes(7) + b"\x01") * 40, "more than 16 fetches at once")
        for answer in (Credit(0, 1), Ask(0), Request(()), Detach()):
            self._offend(
                answer.encode(KOLLACAST), "a message that only a client in the barrier may send"
            )
        self._offend(bytes((Tag.REPORT,)) + encode_json({"ok": True}), "a report that is not due")

    def test_a_fetch_by_one_in_the_barrier(self) -> None:
        self.serve(clients=2)
        raw = self.network.raw_client()
        raw.send(_hello(pull=False))
        raw.send(bytes((Tag.FETCH,)) + bytes(7) + b"\x01")
        self.assertEqual(
            raw.last(Report).fields["reason"],
            "broke the protocol: a fetch by a client in the barrier",
        )

    def test_fetches_of_those_who_are_gone_cost_nothing(self) -> None:
        """They may ask before anything is read, and go, again and again."""
        server = self.serve(clients=2, unicast=True)
        for _ in range(3):
            raw = self.raw()
            raw.send(bytes((Tag.FETCH,)) + bytes(7) + b"\x01")
            self.assertEqual(server.snapshot.reads_waiting, 1)
            raw.close()
            self.assertEqual(server.snapshot.reads_waiting, 0)
        clients = [self.network.join() for _ in range(2)]
        self.assert_whole(*clients)

    def test_one_that_does_not_read_costs_little(self) -> None:
        image = Random(3).randbytes(3_000_000)
        self.network.wire_bytes = 1000
        server = self.serve(image, clients=2, mtu=1500, buffer_packets=100)
        raw = self.raw()
        good = self.network.join()
        raw.transport.pauseProducing()
        raw.send(bytes((Tag.FETCH,)) + bytes(4) + (65536).to_bytes(4, "big"))
        self.assert_whole(good, image=image)
        self.assertLess(raw.transport.peer.peak_unsent, 400_000)
        server.finish(limit_s=90.0)
        self.assertEqual(self.entry(server, "raw")["reason"], "no room for more for 60 s")


def _hello(pull: bool) -> bytes:
    return Hello("raw", 1 << 20, fetch=True, pull=pull).encode()


class SecretTests(_LadderTestCase):
    """Who may join: by address, and by a secret that both sides prove."""

    _SECRET = b"0123456789abcdef"

    def test_both_know_it(self) -> None:
        self.network.trace = []
        server = self.serve(secret=self._SECRET)
        client = self.network.join(secret=self._SECRET)
        self.assert_whole(client)
        self.assertEqual(server.finish().status, Status.OK)
        self.assertNotIn(self._SECRET, b"".join(data for _, data in self.network.trace))

    def test_who_does_not_know_it_is_refused_and_never_counts(self) -> None:
        server = self.serve(secret=self._SECRET)
        for secret, line in (
            (b"another secret..", "the server refuses this client: it does not know the shared"),
            (None, "the server refuses this client: it speaks TLS: give --token-file or --tls-dir"),
        ):
            stranger = self.network.join(secret=secret)
            self.assertIn(line, stranger.finish(limit_s=6.0).line)
        self.assertEqual(server.server.progress().clients, 0)
        client = self.network.join(secret=self._SECRET)
        self.assert_whole(client)
        self.assertEqual(server.finish().status, Status.OK)

    def test_a_server_that_speaks_no_tls(self) -> None:
        self.serve()
        client = self.network.join(secret=self._SECRET)
        line = "it speaks without TLS and so does not prove who it is"
        self.assertIn(line, client.finish(limit_s=5.0).line)

    def test_addresses(self) -> None:
        server = self.serve(allowed=(IPv4Network("10.0.1.2/32"), IPv4Network("10.9.0.0/16")))
        stranger, client = self.network.join(), self.network.join()
        self.assertEqual(
            stranger.finish(limit_s=5.0).line,
            "the server refuses this client: this host is not among those that may join",
        )
        self.assert_whole(client)
        self.assertEqual(server.finish().status, Status.OK)
