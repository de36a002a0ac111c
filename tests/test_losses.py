"""What of a buffer was lost: as two numbers, and as it is told once most clients have said it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.losses import NOTHING_LOST, Lost, lost_of
from kollacast.sending.losses import Losses
from kollacast.sending.reach import Reach
from kollacast.sending.window import Flight
from kollacast.wire.parity import ParityRun
from kollacast.wire.recipes import parity_seq
from tests.vectors import PROPERTY

_PACKETS = 1000


class LostTests(SynchronousTestCase):
    def test_packets_and_runs(self) -> None:
        for seqs, runs in (((), 0), ((7,), 1), ((7, 8, 9), 1), ((7, 9), 2), ((1, 2, 4, 5, 9), 3)):
            self.assertEqual(lost_of(seqs), Lost(len(seqs), runs))

    @PROPERTY
    @given(st.sets(st.integers(0, 40)))
    def test_a_run_begins_where_the_packet_before_is_here(self, seqs: set[int]) -> None:
        runs = sum(seq - 1 not in seqs for seq in seqs)
        self.assertEqual(lost_of(sorted(seqs)), Lost(len(seqs), runs))


class _Client:
    name = "client"
    can_leave = True

    def __init__(self, decodes: bool = True) -> None:
        self.client = self
        self.decodes = decodes
        self.lacks: list[tuple[int, int]] = []

    def lacked(self, packets: int, of: int) -> None:
        self.lacks.append((packets, of))


class LossesTests(SynchronousTestCase):
    """Those of one buffer and four clients; rate control and forecast keep what they are told."""

    def setUp(self) -> None:
        self.clients = [_Client() for _ in range(4)]
        self.told: list[tuple[dict[int, float], dict[int, float]]] = []
        self.forecast: list[list[int]] = []

    def losses(self, *, ahead: int = 0, has_left: bool = True) -> Losses[_Client]:
        buffer = PacketBuffer(100, _PACKETS)
        buffer.announce(1, 0, 100 * _PACKETS)
        run = ParityRun(parity_seq(0), ahead, 5)
        flight = Flight(buffer, sent_bps=1e9, has_left=has_left, ahead=run)
        collaborators: Any = self
        return Losses(flight, self.clients, collaborators, Reach(4), collaborators)

    # In the place of the rate control, and of the forecast.

    def report(
        self,
        epoch: int,
        sent_bps: float,
        packets: int,
        losses: dict[_Client, float],
        bursts: dict[_Client, float],
    ) -> None:
        numbers = {client: number for number, client in enumerate(self.clients)}
        self.told.append(
            (
                {numbers[client]: share for client, share in losses.items()},
                {numbers[client]: burst for client, burst in bursts.items()},
            )
        )

    def heard(self, packets: int, lost: Iterable[int]) -> None:
        self.forecast.append(list(lost))

    def test_by_a_request_and_by_the_credit_that_closes_it(self) -> None:
        losses = self.losses()
        first, second, third, fourth = self.clients
        losses.asked(first, Lost(30, 10))
        losses.closed(second, Lost(20, 20))
        losses.closed(third, NOTHING_LOST)
        # It has said so before.
        losses.closed(first, Lost(31, 11))
        self.assertEqual(losses.unheard, {fourth})
        self.assertEqual(
            [client.lacks for client in self.clients[1:]], [[(20, 1000)], [(0, 1000)], []]
        )
        losses.report()
        self.assertEqual(self.told, [({0: 0.03, 1: 0.02, 2: 0.0}, {0: 3.0, 1: 1.0})])
        self.assertEqual(self.forecast, [[30, 20, 0]])
        losses.closed(fourth, Lost(8, 2))
        self.assertEqual(self.told[1:], [({3: 0.008}, {3: 4.0})])
        losses.report()
        self.assertEqual(len(self.told), 2)

    def test_who_asks_behind_parity_has_lost_what_that_has_mended_as_well(self) -> None:
        losses = self.losses(ahead=100)
        losses.asked(self.clients[0], Lost(5, 5))
        losses.asked(self.clients[1], Lost(990, 1))
        losses.asked(self.clients[2], Lost(_PACKETS, 1))
        losses.closed(self.clients[3], Lost(93, 31))
        losses.report()
        [(shares, bursts)] = self.told
        # 95 were lost, and 90 rows of parity have come.
        self.assertLess(abs(shares[0] - 0.095), 0.001)
        self.assertLess(shares[1], 1.0)
        self.assertEqual((shares[2], shares[3]), (1.0, 0.093))
        # In how many pieces is not known of who asks.
        self.assertEqual(bursts, {3: 3.0})

    def test_a_buffer_that_has_not_left(self) -> None:
        losses = self.losses(has_left=False)
        losses.asked(self.clients[0], Lost(_PACKETS, 1))
        losses.report()
        self.assertEqual((self.told, self.forecast), ([], []))

    def test_parity_is_not_for_who_cannot_decode(self) -> None:
        self.clients[1].decodes = False
        losses = self.losses()
        for client in self.clients:
            losses.closed(client, Lost(7, 7))
        losses.report()
        self.assertEqual(self.forecast, [[7, 7, 7]])
        self.assertEqual(len(self.told[0][0]), 4)

    def test_who_has_left_has_lost_nothing(self) -> None:
        losses = self.losses()
        losses.asked(self.clients[0], Lost(7, 7))
        losses.left(self.clients[0])
        losses.closed(self.clients[1], NOTHING_LOST)
        losses.report()
        losses.closed(self.clients[2], Lost(1, 1))
        self.assertEqual(len(self.told), 1)
        losses.left(self.clients[3])
        self.assertEqual([shares for shares, _ in self.told], [{1: 0.0}, {2: 0.001}])
