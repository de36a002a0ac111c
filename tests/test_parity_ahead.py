"""Twenty clients that lose packets of their own: parity comes unasked, and then nobody asks."""

from __future__ import annotations

import os
from collections import Counter
from random import Random
from unittest import mock

from kollacast.operator.outcome import Status
from kollacast.sending.repairs import Repairs
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import Control, Repaired, Sent
from kollacast.wire.recipes import CONTROL_BASE, PIECES_BASE
from kollacast.wire.structures import PACKET_HEADER_SIZE, SIGNATURE_SIZE
from tests.simulation.network import Network
from tests.simulation.testcase import MemoryTestCase

_CLIENTS = 20
_PACKETS = 128
_BUFFERS = 24
_MTU = 340


class ParityAheadTests(MemoryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.network = Network()
        self.chance = Random(5)
        #: How many ask for something of each buffer, and for how many packets of it.
        self.asked: Counter[int] = Counter()
        #: The buffers of which SENT and REPAIRED come in one control packet as the last words.
        self.told_at_once: set[int] = set()
        requested = Repairs.requested

        def count(repairs: Repairs, client: object, seqs: tuple[int, ...]) -> None:
            self.asked[min(seqs) // _PACKETS] += 1
            requested(repairs, client, seqs)  # type: ignore[arg-type]

        patched = mock.patch.object(Repairs, "requested", count)
        patched.start()
        self.addCleanup(patched.stop)

    def carry(self, share: float) -> None:
        """Bring an image, of which each client loses such a share."""
        image = os.urandom(_BUFFERS * _PACKETS * 300)
        self.network.fate = lambda port, data: self.fate(data, share)
        server = self.network.serve(
            image, clients=_CLIENTS, mtu=_MTU, buffer_packets=_PACKETS, window=2
        )
        clients = [self.network.join() for _ in range(_CLIENTS)]
        outcome = server.finish(limit_s=60.0)
        self.assertEqual(outcome.status, Status.OK)
        for client in clients:
            self.assertEqual(client.finish(limit_s=5.0).status, Status.OK)
            self.assertEqual(client.sink.data, image)
        self.report = outcome.report

    def fate(self, data: bytes, share: float) -> tuple[bytes, ...]:
        seq = int.from_bytes(data[:4], "big")
        if seq >= CONTROL_BASE:
            if seq < PIECES_BASE:
                self.look(data[PACKET_HEADER_SIZE:-SIGNATURE_SIZE])
            return (data,)
        return () if self.chance.random() < share else (data,)

    def look(self, data: bytes) -> None:
        notices = Control.of_data(KOLLACAST, data).notices
        match notices[-2:]:
            case [Sent(buffer_id), Repaired(repaired_id)] if buffer_id == repaired_id:
                self.told_at_once.add(buffer_id)

    def test_losses_of_all(self) -> None:
        self.carry(0.05)
        # Before it is known what is lost, all ask; then hardly anybody.
        self.assertGreater(self.asked[0], 10)
        late = sum(self.asked[number] for number in range(8, _BUFFERS))
        self.assertLess(late, 0.1 * _CLIENTS * (_BUFFERS - 8))
        self.assertGreaterEqual(self.told_at_once, set(range(9, _BUFFERS)))
        self.assertGreater(self.report["packets_coded"], 8 * _BUFFERS)

    def test_no_losses(self) -> None:
        self.carry(0.0)
        self.assertEqual((self.asked, self.told_at_once), (Counter(), set()))
        self.assertEqual(self.report["packets_coded"], 0)
