"""Whole sessions in memory: our server and our clients, and the one that jasmine's are held to."""

from __future__ import annotations

import hashlib
import struct
from random import Random
from typing import Any

from kollacast.operator.expectation import Expectation
from kollacast.operator.outcome import Status
from kollacast.wire.dialect import JASMINE
from kollacast.wire.messages import BufferCtl, Packet, Request, Sent
from kollacast.wire.structures import MIN_MTU
from tests.simulation.links import Weather
from tests.simulation.multicast import MemoryReceivePort
from tests.simulation.network import Network
from tests.simulation.runs import ClientRun, ServerRun
from tests.simulation.settings import BUFFER_PACKETS, CAPACITY
from tests.simulation.testcase import MemoryTestCase

_READS = ("coalesced", "frames", "plain")
_JASMINE: dict[str, Any] = {
    "dialect_name": "jasmine",
    "group": "224.238.0.31",
    "mtu": 1500,
    "buffer_packets": 4,
}


def _image(size: int) -> bytes:
    """Bytes of which no packet is like another."""
    return Random(size).randbytes(size)


class _ConversationTestCase(MemoryTestCase):
    def converse(
        self, image: bytes, clients: int = 2, network: Network | None = None, **options: Any
    ) -> tuple[ServerRun, list[ClientRun]]:
        """A session that has to end well."""
        self.network = network or Network()
        options["expectation"] = Expectation(allow_empty=not image)
        server = self.network.serve(image, clients=clients, **options)
        runs = [self.network.join(reads=_READS[n % len(_READS)]) for n in range(clients)]
        self.assert_well(server, runs, image)
        return server, runs

    def assert_well(self, server: ServerRun, clients: list[ClientRun], image: bytes) -> None:
        outcome = server.finish()
        digest = hashlib.sha256(image).hexdigest()
        self.assertEqual(outcome.status, Status.OK, outcome.line)
        self.assertEqual(outcome.report["sha256"], digest)
        self.assertEqual(outcome.report["bytes"], len(image))
        for client in clients:
            outcome = client.finish()
            self.assertEqual(outcome.status, Status.OK, outcome.line)
            self.assertEqual(client.sink.data, image)
            self.assertTrue(client.sink.is_committed)
            self.assertEqual(outcome.report["sha256"], digest)
            self.assertEqual(outcome.report["bytes"], len(image))
        self.assert_all_gone(client.network)


class SizeTests(_ConversationTestCase):
    """Every awkward size comes over whole."""

    def _sizes(self, capacity: int, packets: int) -> list[int]:
        buffer = capacity * packets
        return [
            0,
            1,
            3,
            capacity - 1,
            capacity,
            capacity + 1,
            2 * capacity,
            buffer - capacity,
            buffer - 1,
            buffer,
            buffer + 1,
            2 * buffer,
            3 * buffer - 1,
            3 * buffer,
            5 * buffer + capacity + 1,
        ]

    def test_in_the_kollacast_dialect(self) -> None:
        for size in self._sizes(CAPACITY, BUFFER_PACKETS):
            for window in (1, 3):
                self.converse(_image(size), window=window)
                of_image = [data for data in self.network.datagrams if data[0] < 0x80]
                self.assertEqual(len(of_image), -(-size // CAPACITY))

    def test_in_the_jasmine_dialect(self) -> None:
        for size in self._sizes(1460, 4):
            self.converse(_image(size), **_JASMINE)
            self.assertEqual(len(self.network.datagrams), -(-size // 1460))
            self.assertLessEqual(max(map(len, self.network.datagrams), default=0), 1472)

    def test_with_jumbo_frames(self) -> None:
        for mtu in (9000, 65535):
            self.converse(_image(300_000), mtu=mtu, buffer_packets=7)
            self.assertGreater(max(map(len, self.network.datagrams)), mtu - 28 - 4)
            self.assertLessEqual(max(map(len, self.network.datagrams)), mtu - 28)

    def test_with_the_smallest_packets(self) -> None:
        self.converse(_image(250), mtu=MIN_MTU)

    def test_one_packet_a_buffer(self) -> None:
        for window in (1, 5):
            self.converse(_image(10 * CAPACITY), buffer_packets=1, window=window)

    def test_a_buffer_larger_than_the_image(self) -> None:
        self.converse(_image(1000), buffer_packets=65536)


class ThreadTests(_ConversationTestCase):
    """Threads that come late: a buffer goes round only when all have done with it."""

    def test_each_thread_is_held_up_for_a_while(self) -> None:
        image = _image(8 * BUFFER_PACKETS * CAPACITY + 1)
        for side, thread in (
            ("server", "read"),
            ("server", "digest"),
            ("client", "disk"),
            ("client", "digest"),
        ):
            for window in (1, 3):
                self.network = Network()
                server = self.network.serve(image, clients=2, threads=True, window=window)
                clients = [self.network.join(threads=True) for _ in range(2)]
                late = (server if side == "server" else clients[0]).threads[thread]
                late.held = True
                self.network.run_for(5.0)
                self.assertIsNone(server.outcome)
                late.release()
                self.assert_well(server, clients, image)


class GroupTests(_ConversationTestCase):
    """Chains of groups of clients."""

    def test_five_clients_in_groups_of_two(self) -> None:
        for window in (1, 2, 8):
            server, _ = self.converse(_image(777), clients=5, group_size=2, window=window)
            self.assertEqual({entry.place for entry in server.snapshot.clients}, {None})
            self.assertEqual(server.snapshot.connections, 0)
            self.assertEqual(server.server.progress().clients, 5)  # have the image

    def test_seventy_clients_in_two_groups(self) -> None:
        server, _ = self.converse(_image(500), clients=70)
        self.assertLess(35, server.snapshot.plan.group_size)
        self.assertLess(server.snapshot.plan.group_size, 70)

    def test_each_in_a_group_of_its_own(self) -> None:
        self.converse(_image(500), clients=5, group_size=1)

    def test_with_losses(self) -> None:
        for seed in range(5):
            network = Network(seed, Weather(loss=0.3, overtaking=9, tick_s=0.0001))
            server, _ = self.converse(
                _image(2000), clients=5, network=network, group_size=2, window=2
            )
            assert server.outcome is not None
            self.assertGreater(server.outcome.report["packets_repaired"], 0)


class LossTests(_ConversationTestCase):
    """What does not come by multicast comes by TCP, or out of coded packets."""

    def _lossy(self, lost: set[int], **options: Any) -> list[ClientRun]:
        """A session in which every client misses the datagrams of these seqs."""

        def fate(port: MemoryReceivePort, data: bytes) -> tuple[bytes, ...]:
            return () if struct.unpack(order, data[:4])[0] in lost else (data,)

        order = "<I" if options.get("dialect_name") == "jasmine" else "!I"
        network = Network()
        network.fate = fate
        _, clients = self.converse(_image(20 * CAPACITY + 5), clients=1, network=network, **options)
        return clients

    def test_the_first_the_last_and_all(self) -> None:
        for lost in ({0}, {20}, {3, 4}, {0, 7, 8, 20}, set(range(21))):
            for window in (1, 3):
                (client,) = self._lossy(lost, window=window)
                assert client.outcome is not None
                report = client.outcome.report
                self.assertEqual(report["packets_repaired"], len(lost))
                self.assertEqual(report["packets_multicast"], 21 - len(lost))

    def test_in_the_jasmine_dialect(self) -> None:
        for lost in ({0}, {20}, {0, 7, 8, 20}, set(range(21))):
            (client,) = self._lossy(lost, dialect_name="jasmine")
            assert client.outcome is not None
            self.assertEqual(client.outcome.report["packets_repaired"], len(lost))

    def test_no_datagram_gets_through(self) -> None:
        network = Network(5, Weather(loss=1.0))
        _, clients = self.converse(_image(3000), clients=3, network=network, window=2)
        for client in clients:
            assert client.outcome is not None
            self.assertEqual(client.outcome.report["packets_multicast"], 0)

    def test_sockets_that_hold_next_to_nothing(self) -> None:
        """The control stream takes many packets of this size: the same first ones get through."""
        for held in (1, 2, 3, 5):
            network = Network(weather=Weather(socket_packets=held))
            server, _ = self.converse(
                _image(7 * 64 * CAPACITY), network=network, buffer_packets=64, window=8
            )
            # What was dropped is known at the server, and said.
            assert server.outcome is not None
            report = server.outcome.report
            self.assertGreater(min(entry["packets_dropped"] for entry in report["clients"]), 10)
            self.assertRegex(report["diagnosis"][0], "dropped in the receive buffer: ")

    def test_duplicates_and_damage(self) -> None:
        network = Network(6, Weather(duplicate=0.3, damage=0.3, overtaking=20))
        _, clients = self.converse(_image(5000), clients=3, network=network, window=2)
        for client in clients:
            assert client.outcome is not None
            self.assertGreater(client.outcome.report["packets_damaged"], 0)
            self.assertGreater(client.outcome.report["packets_repeated"], 0)

    def test_another_session_on_the_same_group(self) -> None:
        """Its packets are damaged ones to us, whatever their seq."""
        image = _image(1000)
        self.network = Network()
        server = self.network.serve(image, clients=2)
        first = self.network.join()
        self.network.settle()
        for seq in range(40):
            payload = bytes(CAPACITY)
            header = server.snapshot.plan.codec.sealed(seq ^ 1, [memoryview(payload)])
            stranger = seq.to_bytes(4, "big") + header[4:] + payload
            self.network.multicast((server.config.group, server.config.port), stranger)
        self.network.settle()
        second = self.network.join()
        self.assert_well(server, [first, second], image)
        assert first.outcome is not None
        self.assertEqual(first.outcome.report["packets_damaged"], 40)

    def test_coded_repairs(self) -> None:
        """Many clients that lack different packets are mended by fewer."""
        network = Network()
        chance = Random(7)
        network.fate = lambda port, data: () if chance.random() < 0.1 else (data,)
        image = _image(128 * 1460 * 2)
        server, clients = self.converse(
            image, clients=4, network=network, mtu=1500, buffer_packets=128, window=2
        )
        assert server.outcome is not None
        self.assertGreater(server.outcome.report["packets_coded"], 0)
        decoded = sum(
            client.outcome.report["packets_decoded"] for client in clients if client.outcome
        )
        self.assertGreater(decoded, 0)


class JasmineTests(_ConversationTestCase):
    """The recorded session, and hand-driven jasmine clients beside our own."""

    def test_the_recorded_session(self) -> None:
        """Byte for byte, in this very order."""
        self.network = Network()
        self.network.trace = []
        image = bytes((7 * i + 3) % 256 for i in range(2926))
        server = self.network.serve(image, clients=1, **{**_JASMINE, "buffer_packets": 1024})
        client = self.network.raw_client(JASMINE)
        client.ready()
        client.request(2)
        client.done()
        client.ready()
        client.done()
        self.assertEqual(server.finish(limit_s=1.0).status, Status.OK)
        self.assertIsNotNone(client.lost)
        seen = [(arrow, data.hex()) for arrow, data in self.network.trace]
        last = "02000000d2e1eaf006000000dbe2e9f0f7fe"
        self.assertEqual(
            seen[:3],
            [
                ("S>C", "020047cfe0ee001f0000000000000000"),
                ("S>C", "010000006e0b00000000000003000000"),
                ("C>S", "01"),
            ],
        )
        self.assertEqual(seen[3], ("udp", last))
        self.assertEqual([len(data) // 2 for _, data in seen[4:6]], [1472, 1472])
        self.assertTrue(seen[4][1].startswith("010000008b3d3732b4050000eff6fd040b12"))
        self.assertTrue(seen[5][1].startswith("000000000fc2bbb4b4050000030a11181f26"))
        self.assertEqual(bytes.fromhex(seen[5][1])[12:], image[:1460])
        self.assertEqual(bytes.fromhex(seen[4][1])[12:], image[1460:2920])
        self.assertEqual(
            seen[6:],
            [
                ("S>C", "08"),
                ("C>S", "020100000002000000"),
                ("S>C", last),
                ("C>S", "04"),
                ("S>C", "02000000000000000300000000000000"),
                ("C>S", "01"),
                ("S>C", "08"),
                ("C>S", "04"),
            ],
        )

    def test_beside_our_own_clients(self) -> None:
        image = _image(20_000)
        self.network = Network()
        server = self.network.serve(image, clients=3, **_JASMINE)
        raw = self.network.raw_client(JASMINE)
        raw.answer(BufferCtl, Sent)
        clients = [self.network.join() for _ in range(2)]
        self.assert_well(server, clients, image)
        assert server.outcome is not None
        self.assertEqual(server.outcome.report["clients_verified"], 3)

    def test_one_that_leaves_is_not_waited_for(self) -> None:
        for answers in ((), (BufferCtl,)):
            image = _image(20_000)
            self.network = Network()
            server = self.network.serve(image, clients=2, **_JASMINE)
            raw = self.network.raw_client(JASMINE)
            raw.answer(*answers)
            (client,) = [self.network.join()]
            self.network.settle()
            raw.close()
            outcome = server.finish(limit_s=1.0)
            self.assertEqual(outcome.status, Status.PARTIAL)
            self.assertEqual(client.finish().status, Status.OK)
            self.assertEqual(client.sink.data, image)

    def test_late_datagrams_that_make_the_answers_needless(self) -> None:
        """A request is answered in full, although DONE has come in the meantime."""
        for clients in (1, 2):
            self.network = Network()
            self.network.wire_bytes = 4000
            server = self.network.serve(
                _image(200 * 1460), clients=clients, **{**_JASMINE, "buffer_packets": 200}
            )
            raw = self.network.raw_client(JASMINE)
            others = [self.network.raw_client(JASMINE) for _ in range(clients - 1)]
            for other in others:
                other.ready()
            raw.ready()
            raw.transport.pauseProducing()
            # In one piece: no answer is under way yet when DONE comes.
            raw.expect_packets(200)
            raw.send(Request(tuple(range(200))).encode(JASMINE) + b"\x04")
            for other in others:
                other.close()
            raw.transport.resumeProducing()
            self.network.settle()
            packets = [message for message in raw.heard if isinstance(message, Packet)]
            self.assertEqual([packet.seq for packet in packets], list(range(200)))
            self.assertEqual({len(packet.payload) for packet in packets}, {1460})
            self.assertEqual(raw.last(BufferCtl), BufferCtl(2, 0, 200, 0))
            raw.ready()
            raw.done()
            outcome = server.finish(limit_s=1.0)
            self.assertEqual(outcome.report["clients_verified"], 1)
