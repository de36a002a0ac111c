"""Packets that are not the server's, with a CRC that is right, at clients of a real session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from twisted.logger import capturedLogs, formatEvent

from kollacast.files import tree_digest
from kollacast.files.tree_digest import digest_pieces
from kollacast.operator.outcome import Outcome, Status
from kollacast.sending.member import Member
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Greeting
from kollacast.wire.messages import BufferCtl, Control, Request, Sent
from kollacast.wire.pieces import Pieces, Want
from kollacast.wire.recipes import PIECES_BASE, control_seq, pieces_seq
from kollacast.wire.signature import Signer
from kollacast.wire.structures import SEQ_LIMIT
from tests.simulation.forger import Forger
from tests.simulation.image import MemorySource
from tests.simulation.multicast import MemoryReceivePort
from tests.simulation.network import Network
from tests.simulation.raw_ends import RawServer
from tests.simulation.runs import ClientRun, ServerRun
from tests.simulation.settings import CAPACITY, GROUP, PORT
from tests.simulation.testcase import MemoryTestCase

_IMAGE = Random(8).randbytes(60 * CAPACITY + 5)
#: Packets of one buffer, which has more than one piece.
_PACKETS = 16
_PIECE = 4 * CAPACITY + 9

#: What comes to a host when a datagram leaves: what the forger makes of it, and it itself.
Forgery = Callable[[Forger, bytes], Sequence[bytes]]


def _seq(datagram: bytes) -> int:
    return int.from_bytes(datagram[:4], "big")


def _once(seq: int, kind: Callable[[Forger, bytes], bytes]) -> Forgery:
    """One forged packet before the server's own, at the first host that it comes to."""
    done: list[bytes] = []

    def forgery(forger: Forger, datagram: bytes) -> Sequence[bytes]:
        if _seq(datagram) != seq or done:
            return (datagram,)
        done.append(kind(forger, datagram))
        return (*done, datagram)

    return forgery


class ForgedPacketTests(MemoryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.network = Network()
        self.patch(tree_digest, "PIECE_SIZE", _PIECE)

    def serve(self, clients: int = 1, **options: object) -> ServerRun:
        return self.network.serve(
            MemorySource(_IMAGE, identity="file"),
            clients=clients,
            **{"buffer_packets": _PACKETS, "window": 2, **options},
        )

    def disturb(self, server: ServerRun, forgery: Forgery) -> Forger:
        forger = Forger(server.snapshot.plan.salt, Random(1))

        def fate(port: MemoryReceivePort, datagram: bytes) -> Sequence[bytes]:
            return forgery(forger, datagram)

        self.network.fate = fate
        return forger

    def assert_well(self, server: ServerRun, *clients: ClientRun) -> list[Outcome]:
        outcomes = [client.finish() for client in clients]
        for client, outcome in zip(clients, outcomes, strict=True):
            self.assertEqual(outcome.status, Status.OK, outcome.line)
            self.assertEqual(client.sink.data, _IMAGE)
        self.assertEqual(server.finish().status, Status.OK)
        self.assert_all_gone(self.network)
        return outcomes

    def test_one_forged_packet_costs_one_piece(self) -> None:
        """Its packets come again, and no others."""
        for kind in (Forger.payload, Forger.size):
            self.network = Network()
            server = self.serve(clients=2)
            self.disturb(server, _once(21, kind))
            with capturedLogs() as events:
                clients = [self.network.join() for _ in range(2)]
                first, second = self.assert_well(server, *clients)
            self.assertEqual(first.report["pieces_wrong"] + second.report["pieces_wrong"], 1)
            repaired = first.report["packets_repaired"] + second.report["packets_repaired"]
            self.assertLessEqual(repaired, _PIECE // CAPACITY + 2)
            said = [formatEvent(event) for event in events]
            self.assertEqual(sum("are not the server's" in line for line in said), 1)

    def test_who_is_poisoned_for_good_gets_all_by_tcp(self) -> None:
        server = self.serve()
        self.disturb(server, lambda f, d: (d if _seq(d) >= SEQ_LIMIT else f.payload(d),))
        (outcome,) = self.assert_well(server, self.network.join())
        self.assertGreaterEqual(outcome.report["packets_repaired"], 61)

    def test_others_are_not_held_up_for_more_than_that(self) -> None:
        """The other host hears the same server, and nobody else."""
        server = self.serve(clients=2)
        forger = Forger(server.snapshot.plan.salt, Random(1))
        poisoned, well = self.network.join(), self.network.join()

        def fate(port: MemoryReceivePort, datagram: bytes) -> Sequence[bytes]:
            is_there = port.host is poisoned.host
            forged = [forger.payload(datagram)] if is_there and _seq(datagram) < SEQ_LIMIT else []
            return (*forged, datagram)

        self.network.fate = fate
        _, outcome = self.assert_well(server, poisoned, well)
        self.assertEqual(outcome.report["packets_repaired"], 0)
        self.assertEqual(outcome.report["pieces_wrong"], 0)

    def test_without_pieces_the_digest_tells_in_the_end(self) -> None:
        """What the packets above would do to a session that has none: so they are worth it."""
        server = self.serve()
        credentials = server.server._session.credentials
        assert isinstance(credentials.greeting, Greeting)
        credentials.greeting = replace(credentials.greeting, pieces=False)
        self.disturb(server, lambda f, d: (f.payload(d), d) if _seq(d) == 21 else (d,))
        client = self.network.join()
        outcome = client.finish()
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertIn("the image is not the server's", outcome.line)

    def test_control_packets(self) -> None:
        """Of a thousand that say what the server has not, none is believed."""
        server = self.serve()

        def forgery(forger: Forger, datagram: bytes) -> Sequence[bytes]:
            return (*(forger.control(datagram) for _ in range(30)), datagram)

        self.disturb(server, forgery)
        (outcome,) = self.assert_well(server, self.network.join())
        self.assertGreater(outcome.report["packets_forged"], 0)
        # Most of them are not even looked at.
        self.assertLess(outcome.report["packets_forged"], 50 + 200 * outcome.report["seconds"] + 1)

    def test_digests_of_pieces(self) -> None:
        """Ones that are forged come first, and the server's are taken."""
        server = self.serve()

        def forgery(forger: Forger, datagram: bytes) -> Sequence[bytes]:
            if _seq(datagram) < PIECES_BASE:
                return (datagram,)
            digests = (bytes(32),) * 2
            data = Pieces(1, 0, digests).data(KOLLACAST) + bytes(64)
            return (forger.sealed(pieces_seq(7), data), datagram)

        self.disturb(server, forgery)
        (outcome,) = self.assert_well(server, self.network.join())
        self.assertEqual(outcome.report["pieces_wrong"], 0)

    def test_digests_that_are_lost_come_by_tcp(self) -> None:
        wanted: list[int] = []
        want = Member.want

        def counted(member: Member, buffer_id: int) -> None:
            wanted.append(buffer_id)
            want(member, buffer_id)

        self.patch(Member, "want", counted)
        server = self.serve()
        self.disturb(server, lambda f, d: () if _seq(d) >= PIECES_BASE else (d,))
        self.assert_well(server, self.network.join())
        # Once for each buffer, whatever else happens.
        self.assertEqual(wanted, [1, 2, 3, 4])

    def test_recipes_and_coded_packets(self) -> None:
        """What comes out of them is proved like all else."""
        server = self.serve(clients=2)

        def forgery(forger: Forger, datagram: bytes) -> Sequence[bytes]:
            if _seq(datagram) % 5 == 0 and _seq(datagram) < SEQ_LIMIT:
                return (forger.recipe(datagram), forger.coded(datagram), forger.coded(datagram))
            return (datagram,)

        self.disturb(server, forgery)
        self.assert_well(server, self.network.join(), self.network.join())

    def test_all_at_once(self) -> None:
        for seed in range(12):
            self.network = Network()
            server = self.serve(clients=2)
            random = Random(seed)
            forger = Forger(server.snapshot.plan.salt, random)

            def fate(
                port: MemoryReceivePort,
                datagram: bytes,
                forger: Forger = forger,
                random: Random = random,
            ) -> Sequence[bytes]:
                forger.hears(datagram)
                found = [datagram] if random.random() < 0.95 else []
                while random.random() < 0.4:
                    found.insert(random.randint(0, len(found)), forger.forge(datagram))
                return found

            self.network.fate = fate
            self.assert_well(server, self.network.join(), self.network.join(threads=True))


class RawServerTests(MemoryTestCase):
    """A server whose every word a test says."""

    def setUp(self) -> None:
        super().setUp()
        self.network = Network()
        self.signer = Signer()

    def meet(self) -> tuple[RawServer, ClientRun]:
        server = self.network.raw_server()
        client = self.network.join()
        self.network.settle()
        server.greet(pieces=True, control_key=self.signer.public.hex())
        return server, client

    def pieces(self, *digests: bytes) -> bytes:
        return Pieces(1, 0, digests).encode(KOLLACAST)

    def test_a_server_that_refutes_itself(self) -> None:
        """By multicast, by multicast, by TCP: then it is the server."""
        server, client = self.meet()
        server.announce(1, 2 * CAPACITY, 0, 2)
        packets = [server.packet(seq, bytes(CAPACITY)) for seq in range(2)]
        server.multicast(*packets)
        server.sent()
        self.assertEqual(server.client.heard[-1], Want(1))
        server.send(self.pieces(bytes(32)))
        self.assertEqual(server.client.heard[-1], Request((0, 1)))
        server.multicast(*packets)
        self.assertEqual(server.client.heard[-1], Request((0, 1)))
        server.multicast(*packets)
        self.assertIsNone(client.outcome, "what is multicast does not count any more")
        for seq in range(2):
            server.repair(seq, bytes(CAPACITY))
        outcome = client.finish()
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertEqual(outcome.line, "the server's own packets are not what it has said of them")
        self.assertEqual(outcome.report["pieces_wrong"], 3)

    def test_packets_of_another_length_and_then_other_packets(self) -> None:
        """By multicast twice, and what was behind them never looked at: it is not the server."""
        server, client = self.meet()
        image = bytes(CAPACITY) + b"\x01" * CAPACITY
        server.announce(1, len(image), 0, 2)
        server.send(self.pieces(*digest_pieces(memoryview(image), 0)))
        forged = server.packet(0, b"\x02" * CAPACITY)
        server.multicast(forged, server.packet(1, b"\x02"))
        server.sent()
        self.assertEqual(server.client.heard[-1], Request((1,)))
        server.multicast(server.packet(1, b"\x02"))
        self.assertEqual(server.client.heard[-1], Request((0, 1)))
        for seq in range(2):
            server.repair(seq, image[seq * CAPACITY :][:CAPACITY])
        self.assertEqual(client.sink.data, image)
        self.assertIsNone(client.outcome)

    def test_digests_that_a_buffer_has_not(self) -> None:
        server, client = self.meet()
        server.announce(1, 2 * CAPACITY, 0, 2)
        server.send(self.pieces(bytes(32), bytes(32)))
        outcome = client.finish()
        self.assertEqual(outcome.status, Status.FAILED)
        self.assertIn("digests of pieces that buffer 1 has not", outcome.line)

    def test_digests_of_a_buffer_that_is_not_here(self) -> None:
        server, client = self.meet()
        server.announce(1, 2 * CAPACITY, 0, 2)
        server.send(Pieces(9, 0, (bytes(32),)).encode(KOLLACAST))
        self.assertIsNone(client.outcome)

    def test_only_what_is_signed_is_heard_by_multicast(self) -> None:
        server, client = self.meet()
        server.announce(1, CAPACITY, 0, 1)
        heard = list(server.client.heard)
        data = Control(1, 2, (Sent(1, 1),)).data(KOLLACAST)
        seq = control_seq(0)
        wrong = self.signer.sign(control_seq(1), data)
        server.multicast(
            server.packet(seq, data),
            server.packet(seq, wrong),
            server.packet(seq, data + bytes(64)),
        )
        self.assertEqual(server.client.heard, heard)
        server.multicast(server.packet(seq, self.signer.sign(seq, data)))
        self.assertEqual(server.client.heard[-2:], [Request((0,)), Want(1)])
        self.assertEqual(client.account.report(None)["packets_forged"], 2)

    def test_a_replay_is_no_sign_of_life(self) -> None:
        """Whoever sends again what the server has said does not keep a host from asking."""
        server, client = self.meet()
        server.announce(1, CAPACITY, 0, 1)
        data = Control(1, 1, (BufferCtl(1, CAPACITY, 0, 1),)).data(KOLLACAST)
        old, new = (
            server.packet(seq, self.signer.sign(seq, data)) for seq in map(control_seq, (5, 6))
        )
        asked: list[float] = []
        for packet in (new, old):
            server.multicast(packet)
            for _ in range(40):
                self.network.run_for(0.05)
                server.multicast(packet)
            asked.append(server.client.data.count(b"\x05\x00\x00\x00\x01"))
        self.assertGreaterEqual(asked[1], 1)
        self.assertIsNone(client.outcome)
        self.assertEqual((GROUP, PORT), server.group)
