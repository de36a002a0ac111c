"""How losses are repaired: for many at once, for one alone, and for whoever comes late.

The first tests drive :class:`Repairs` with clients and a sender that only keep what they are
given, on a clock that the test turns; the last ones are of a whole server in memory.
"""

from __future__ import annotations

import gc
import os
import random
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial import unittest

from kollacast.congestion.control import Epoch
from kollacast.congestion.trials import Trials
from kollacast.events.guard import Guard
from kollacast.operator.config import ServerConfig
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.packets.losses import NOTHING_LOST, Lost
from kollacast.repair.planning import plan as planner
from kollacast.sending.plan import offer
from kollacast.sending.repairs import Repairs
from kollacast.sending.window import Flight
from kollacast.transport.pacing import Pacer
from kollacast.transport.sender import MulticastProtocol
from kollacast.wire import recipes
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import (
    BufferCtl,
    Credit,
    Digest,
    Notice,
    Packet,
    Repaired,
    Request,
    Sent,
)
from kollacast.wire.recipes import Recipe
from tests.simulation.network import Network
from tests.simulation.settings import GROUP, PORT, SERVER_IP
from tests.simulation.testcase import MemoryTestCase

_ENGINE, _ = best_crc32c()
_MTU = 140
_CAPACITY = 100
_PACKETS = 200
#: Longer than requests are gathered for.
_GRACE_S = 1.0


class _Client:
    """Keeps what it is given."""

    name = "client"
    can_leave = True

    def __init__(self, decodes: bool = True) -> None:
        self.client = self
        self.decodes = decodes
        self.by_tcp: list[int] = []
        #: How often what it had asked for was multicast.
        self.served = 0
        #: What it lacked at first, of how many packets.
        self.lacks: list[tuple[int, int]] = []

    def lacked(self, packets: int, of: int) -> None:
        self.lacks.append((packets, of))

    def repair(self, seqs: Sequence[int]) -> None:
        self.by_tcp += seqs

    def repaired(self) -> None:
        self.served += 1


class _Sender:
    """Keeps what is multicast; a test may let it take its time."""

    def __init__(self) -> None:
        self.packets: list[tuple[int, bytes]] = []
        self.under_way: list[Deferred[float]] = []
        self.takes_time = False
        self.is_urgent = True

    def multicast(self, buffer: PacketBuffer, *, urgent: bool = False) -> Deferred[float]:
        assert urgent == self.is_urgent, "whoever waits for a repair holds up all others"
        base = buffer.ctl.packet_id_base
        self.packets += [
            (base + slot, bytes(buffer.slots(slot, 1)[0])) for slot in range(buffer.ctl.pkt_count)
        ]
        finished: Deferred[float] = Deferred()
        self.under_way.append(finished)
        if not self.takes_time:
            self.finish()
        return finished

    def finish(self) -> None:
        under_way, self.under_way = self.under_way, []
        for finished in under_way:
            finished.callback(0.0)

    @property
    def recipes(self) -> dict[int, tuple[int, ...]]:
        told: dict[int, tuple[int, ...]] = {}
        for seq, payload in self.packets:
            if seq >= recipes.RECIPE_BASE:
                told.update(Recipe.decode(payload).named())
        return told

    @property
    def combinations(self) -> dict[int, bytes]:
        return {seq: payload for seq, payload in self.packets if seq < recipes.PARITY_BASE}


class _Control(Trials):
    """Keeps what is reported."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[tuple[int, float, int, dict[object, float]]] = []
        self.bursts: dict[object, float] = {}
        self.forgotten: list[object] = []

    def report(
        self,
        epoch: int,
        sent_bps: float,
        packets: int,
        losses: Mapping[object, float],
        bursts: Mapping[object, float] | None = None,
    ) -> None:
        self.reports.append((epoch, sent_bps, packets, dict(losses)))
        self.bursts.update(bursts or {})

    def forget(self, client: object) -> None:
        self.forgotten.append(client)


class _RepairsTest(unittest.SynchronousTestCase):
    dialect = "kollacast"

    def setUp(self) -> None:
        self.clock = Clock()
        config = ServerConfig(
            SERVER_IP, 4, PORT, GROUP, 1, _MTU, buffer_packets=8000, dialect_name=self.dialect
        )
        plan = offer(config, _ENGINE, None, None)
        self.codec = plan.codec
        self.sender = _Sender()
        self.control = _Control()
        self.failures: list[Failure] = []
        #: What all clients were told.
        self.told: list[Repaired] = []
        sender: MulticastProtocol = self.sender  # type: ignore[assignment]
        self.repairs = Repairs(
            self.clock,
            plan,
            sender,
            Pacer(self.clock, None),
            self.control,
            self.post,
            Guard(self.failures.append),
        )
        self.window = self.repairs.window
        self.next_seq = 1000
        self.clients = [_Client() for _ in range(4)]

    def tearDown(self) -> None:
        self.assertEqual(self.failures, [])

    def post(self, notice: Notice, buffer_id: int) -> None:
        assert isinstance(notice, Repaired), notice
        self.assertEqual(notice.buffer_id, buffer_id)
        self.told.append(notice)

    def assert_served(self, *rounds: int) -> None:
        """So often each client was served by multicast, and all were told as often as the most."""
        self.assertEqual([client.served for client in self.clients], [*rounds])
        self.assertEqual(len(self.told), max(rounds))

    def begin(self, packets: int = _PACKETS) -> Flight:
        """A buffer has been multicast to all clients."""
        flight = self.leaving(packets)
        self.repairs.begin(flight, self.clients)
        return flight

    def leaving(self, packets: int = _PACKETS) -> Flight:
        """A buffer leaves."""
        size = max(packets * _CAPACITY - 7, 0)
        buffer = PacketBuffer(_CAPACITY, packets)
        buffer.payload[:size] = random.Random(packets).randbytes(size)
        buffer.announce(len(self.window.flights) + 1, self.next_seq, size)
        self.next_seq += packets
        flight = Flight(buffer, sent=True, epoch=Epoch(3), sent_bps=1e9)
        self.window.flights.append(flight)
        return flight

    def retire(self, flight: Flight) -> None:
        """All clients have it, and its memory is used again."""
        self.window.flights.remove(flight)
        self.repairs.end(flight)
        flight.buffer.announce(99, 500_000, 100)

    def assert_mended(self, flight: Flight, *wanted: Iterable[int]) -> None:
        """Whoever lacks ``wanted`` gets it out of what was multicast, and right."""
        buffer = flight.buffer
        base, count = buffer.ctl.packet_id_base, buffer.ctl.pkt_count
        for lacking in map(set, wanted):
            intake, copy = Intake(self.codec, _CAPACITY), PacketBuffer(_CAPACITY, count)
            copy.init(buffer.ctl)
            intake.arm(copy)
            for seq in set(range(base, base + count)) - lacking:
                payload = buffer.get(seq)
                assert payload is not None
                copy.put(seq, payload)
            for seq, coded in self.sender.packets:
                intake.datagram(self.codec.sealed(seq, [memoryview(coded)]) + coded)
            for told in self.told:
                if told.count and told.buffer_id == buffer.ctl.buffer_id:
                    deque(intake.mend(copy, told.parity))
            self.assertEqual(copy.missing(), [], f"of {len(lacking)}")
            self.assertEqual(
                copy.payload[: buffer.ctl.buffer_size], buffer.payload[: buffer.ctl.buffer_size]
            )

    def losses(self, flight: Flight, share: float, seed: int) -> tuple[int, ...]:
        """What one client lost of a buffer."""
        chance = random.Random(seed)
        base, count = flight.buffer.ctl.packet_id_base, flight.buffer.ctl.pkt_count
        return tuple(seq for seq in range(base, base + count) if chance.random() < share)

    def turn(self) -> None:
        """The reactor goes round until nothing is left to do at once."""
        self.clock.advance(0)


class Rounds(_RepairsTest):
    """First requests, of which the server waits for all."""

    def test_what_several_clients_lack_is_multicast_combined(self) -> None:
        flight = self.begin()
        wanted = [self.losses(flight, 0.1, seed) for seed in range(4)]
        for client, seqs in zip(self.clients, wanted, strict=True):
            self.assertEqual(self.sender.packets, [])
            self.repairs.requested(client, seqs)
        self.turn()
        self.assert_mended(flight, *wanted)
        self.assertLess(len(self.sender.combinations), 0.5 * sum(map(len, wanted)))
        self.assertEqual([client.by_tcp for client in self.clients], [[]] * 4)
        self.assert_served(1, 1, 1, 1)
        self.assertEqual([told.buffer_id for told in self.told], [1])

    def test_recipes_go_twice_and_first(self) -> None:
        """Whoever misses a recipe can use none of its combinations."""
        flight = self.begin()
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, self.losses(flight, 0.1, number))
        self.turn()
        seqs = [seq for seq, _ in self.sender.packets]
        told = [seq for seq in seqs if seq >= recipes.RECIPE_BASE]
        self.assertEqual(seqs[: len(told)], told)
        self.assertEqual(told[: len(told) // 2] * 2, told)
        self.assertEqual(self.repairs.packets_coded, len(seqs))

    def test_rounds_do_not_share_seqs(self) -> None:
        flights = [self.begin(), self.begin()]
        for flight in flights:
            for number, client in enumerate(self.clients):
                self.repairs.requested(client, self.losses(flight, 0.1, number))
            self.turn()
        for flight in flights:
            self.assert_mended(flight, *(self.losses(flight, 0.1, seed) for seed in range(4)))
        combined = [seq for seq, _ in self.sender.packets if seq < recipes.RECIPE_BASE]
        self.assertEqual(len(set(combined)), len(combined))
        self.assert_served(2, 2, 2, 2)
        self.assertEqual([told.buffer_id for told in self.told], [1, 2])

    def test_they_are_told_once_the_last_packet_has_left(self) -> None:
        self.sender.takes_time = True
        flight = self.begin()
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, self.losses(flight, 0.1, number))
        self.turn()
        self.assert_served(0, 0, 0, 0)
        self.sender.finish()
        self.assert_served(1, 1, 1, 1)

    def test_one_client_alone_is_served_by_tcp(self) -> None:
        flight = self.begin()
        seqs = self.losses(flight, 0.3, 1)
        self.repairs.requested(self.clients[0], seqs)
        for client in self.clients[1:]:
            self.repairs.done(client, 1, NOTHING_LOST)
        self.turn()
        self.assertEqual(self.clients[0].by_tcp, list(seqs))
        self.assertEqual(self.sender.packets, [])
        self.assert_served(0, 0, 0, 0)

    def test_a_few_packets_are_not_worth_a_round(self) -> None:
        self.begin()
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, (1000 + number,))
        self.turn()
        self.assertEqual(
            [client.by_tcp for client in self.clients], [[1000], [1001], [1002], [1003]]
        )
        self.assertEqual(self.sender.packets, [])

    def test_where_combining_saves_nothing_tcp_serves_each(self) -> None:
        """One has lost the whole buffer and another a few: two clients, as many packets."""
        self.begin()
        everything = tuple(range(1000, 1200))
        self.repairs.requested(self.clients[0], everything)
        self.repairs.requested(self.clients[1], everything[:20])
        for client in self.clients[2:]:
            self.repairs.done(client, 1, NOTHING_LOST)
        self.turn()
        self.assertEqual(self.clients[0].by_tcp, list(everything))
        self.assertEqual(self.clients[1].by_tcp, list(everything[:20]))
        self.assertEqual(self.sender.packets, [])

    def test_a_loss_that_all_share_is_multicast_once(self) -> None:
        flight = self.begin()
        for client in self.clients:
            self.repairs.requested(client, tuple(range(1000, 1100)))
        self.turn()
        self.assertEqual(len(self.sender.combinations), 100)
        self.assert_mended(flight, range(1000, 1100))

    def test_clients_that_cannot_decode_get_theirs_by_tcp(self) -> None:
        self.clients[0].decodes = self.clients[1].decodes = False
        flight = self.begin()
        wanted = [self.losses(flight, 0.2, seed) for seed in range(4)]
        for client, seqs in zip(self.clients, wanted, strict=True):
            self.repairs.requested(client, seqs)
        self.turn()
        self.assertEqual([client.by_tcp for client in self.clients[:2]], [*map(list, wanted[:2])])
        self.assertEqual([client.by_tcp for client in self.clients[2:]], [[], []])
        self.assert_served(0, 0, 1, 1)
        self.assert_mended(flight, *wanted[2:])

    def test_who_cannot_decode_waits_for_nobody(self) -> None:
        self.clients[0].decodes = False
        flight = self.begin()
        seqs = self.losses(flight, 0.2, 0)
        self.repairs.requested(self.clients[0], seqs)
        self.assertEqual(self.clients[0].by_tcp, list(seqs))
        for number in (1, 2, 3):
            self.repairs.requested(self.clients[number], self.losses(flight, 0.2, number))
        self.turn()
        self.assert_served(0, 1, 1, 1)

    def test_one_that_decodes_among_others_that_cannot(self) -> None:
        for client in self.clients[1:]:
            client.decodes = False
        flight = self.begin()
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, self.losses(flight, 0.2, number))
        self.turn()
        self.assertEqual(self.sender.packets, [])
        self.assertEqual(self.clients[0].by_tcp, list(self.losses(flight, 0.2, 0)))

    def test_everything_at_every_client(self) -> None:
        """The multicast never reached anyone: it takes one buffer's packets and no more."""
        self.clients = [_Client() for _ in range(50)]
        flight = self.begin()
        for client in self.clients:
            self.repairs.requested(client, tuple(range(1000, 1200)))
        self.turn()
        self.assertEqual(len(self.sender.combinations), _PACKETS)
        self.assert_mended(flight, range(1000, 1200))

    def test_seqs_that_are_asked_for_twice(self) -> None:
        flight = self.begin()
        for client in self.clients:
            self.repairs.requested(client, tuple(range(1000, 1050)) * 2)
        self.turn()
        self.assertEqual(len(self.sender.combinations), 50)
        self.assert_mended(flight, range(1000, 1050))


class Grace(_RepairsTest):
    """Nobody waits long for the others."""

    def test_after_it_those_who_asked_are_served(self) -> None:
        flight = self.begin()
        wanted = [self.losses(flight, 0.2, seed) for seed in range(3)]
        for client, seqs in zip(self.clients, wanted, strict=False):
            self.repairs.requested(client, seqs)
        self.turn()
        self.assertEqual(self.sender.packets, [])
        self.clock.advance(_GRACE_S)
        self.assert_mended(flight, *wanted)
        self.assert_served(1, 1, 1, 0)

    def test_who_comes_later_is_served_by_tcp_at_once(self) -> None:
        flight = self.begin()
        self.clock.advance(_GRACE_S)
        seqs = self.losses(flight, 0.2, 1)
        self.repairs.requested(self.clients[0], seqs)
        self.assertEqual(self.clients[0].by_tcp, list(seqs))

    def test_who_asks_again_is_served_by_tcp_at_once(self) -> None:
        """A coded repair was lost as well, or has come without its recipe."""
        flight = self.begin()
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, self.losses(flight, 0.2, number))
        self.turn()
        coded = len(self.sender.packets)
        self.repairs.requested(self.clients[0], (1003, 1007))
        self.assertEqual(self.clients[0].by_tcp, [1003, 1007])
        self.turn()
        self.assertEqual(len(self.sender.packets), coded)

    def test_a_request_for_two_buffers_at_once(self) -> None:
        """No round is its place."""
        self.begin()
        self.begin()
        self.repairs.requested(self.clients[0], (1199, 1200))
        self.assertEqual(self.clients[0].by_tcp, [1199, 1200])

    def test_a_request_for_what_no_buffer_holds(self) -> None:
        self.begin()
        for seqs in ((), (7,), (7, 1000), (1000, 7)):
            self.repairs.requested(self.clients[0], seqs)
        self.assertEqual(self.clients[0].by_tcp, [7, 7, 1000, 1000, 7])

    def test_the_empty_buffer_has_no_round(self) -> None:
        self.begin(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_end_of_the_session(self) -> None:
        self.begin()
        self.begin()
        self.repairs.requested(self.clients[0], (1000,))
        self.repairs.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.clients[0].by_tcp, [])

    def test_a_buffer_that_all_have_leaves_nothing_behind(self) -> None:
        for share in (0.0, 0.2):
            flight = self.begin()
            for number, client in enumerate(self.clients):
                self.repairs.requested(client, self.losses(flight, share, number))
            self.turn()
            self.retire(flight)
            watch = weakref.ref(flight.buffer)
            del flight
            gc.collect()
            self.assertIsNone(watch())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ManyClients(_RepairsTest):
    """So many that parity is the way, and late ones are many."""

    def setUp(self) -> None:
        super().setUp()
        self.clients = [_Client() for _ in range(40)]

    def ask(self, flight: Flight, numbers: Iterable[int], share: float = 0.05) -> None:
        for number in numbers:
            self.repairs.requested(self.clients[number], self.losses(flight, share, number))

    def by_tcp(self) -> list[int]:
        """Which clients have been sent something by TCP."""
        return [number for number, client in enumerate(self.clients) if client.by_tcp]

    def served(self) -> list[int]:
        """Which clients have been served by multicast."""
        return [number for number, client in enumerate(self.clients) if client.served]

    def all_but(self, *absent: int) -> list[int]:
        return [number for number in range(40) if number not in absent]

    def test_as_many_packets_as_the_worst_lacks_and_a_few(self) -> None:
        flight = self.begin(2000)
        self.ask(flight, range(40))
        self.turn()
        lost = [self.losses(flight, 0.05, number) for number in range(40)]
        worst = max(map(len, lost))
        self.assertLess(len(self.sender.packets), (worst + 9) / (1 - worst / 2000) + 1)
        self.assertEqual(self.repairs.packets_coded, len(self.sender.packets))
        self.assertEqual(self.by_tcp(), [])
        self.assert_served(*[1] * 40)
        (told,) = self.told
        self.assertEqual(told.first, self.sender.packets[0][0])
        self.assertEqual(told.count, len(self.sender.packets))
        self.assert_mended(flight, *lost)

    def test_who_asks_when_it_has_left_is_gathered_with_who_ask_again(self) -> None:
        """It had not heard of parity when it asked, and there may be many like it."""
        flight = self.begin(2000)
        late = range(20, 40)
        self.ask(flight, range(20))
        self.clock.pump([0.1, 0.05, 0])
        self.assertEqual(self.served(), [*range(20)])
        self.ask(flight, late)
        for number in range(20):
            self.repairs.done(self.clients[number], 1, NOTHING_LOST)
        self.turn()
        self.assertEqual(self.by_tcp(), [])
        self.assertEqual(self.served(), [*range(40)])
        self.assertEqual(len(self.told), 2)
        self.assert_mended(flight, *(self.losses(flight, 0.05, number) for number in late))

    def test_who_asks_late_where_nobody_asks_again(self) -> None:
        """It is waited for whether others are as late, and no longer than for others."""
        flight = self.begin(2000)
        self.ask(flight, range(20))
        self.clock.pump([0.1, 0.05, 0])
        self.ask(flight, range(20, 39))
        self.clock.pump([0.01] * 50)
        self.assertEqual(self.by_tcp(), [])
        self.assertEqual(self.served(), [*range(39)])

    def test_who_asks_for_little_when_it_has_left_is_served_by_tcp(self) -> None:
        flight = self.begin(2000)
        self.ask(flight, self.all_but(7))
        self.clock.pump([0.1, 0.05, 0])
        self.assertEqual(self.served(), self.all_but(7))
        self.repairs.requested(self.clients[7], (1005,))
        self.assertEqual(self.clients[7].by_tcp, [1005])
        self.repairs.requested(self.clients[7], (1007,))
        self.assertEqual(self.clients[7].by_tcp, [1005, 1007])
        self.assertEqual(len(self.told), 1)
        self.assertEqual(flight.buffer.ctl.buffer_id, 1)

    def test_who_asks_while_it_leaves_is_told_with_the_others(self) -> None:
        self.sender.takes_time = True
        flight = self.begin(2000)
        self.ask(flight, self.all_but(7, 8))
        self.clock.pump([0.1, 0.05, 0])
        self.ask(flight, [7, 8])
        self.repairs.left(self.clients[8])
        self.assertEqual((self.served(), self.told), ([], []))
        self.sender.finish()
        self.assertEqual(self.served(), self.all_but(8))
        self.assertEqual(len(self.told), 1)
        self.assertEqual(self.by_tcp(), [])
        self.assert_mended(flight, self.losses(flight, 0.05, 7))
        # And it counts among those who may ask again.
        self.repairs.requested(self.clients[7], (1005,))
        self.assertEqual(self.by_tcp(), [])

    def test_who_asks_late_where_nothing_is_worth_it(self) -> None:
        """While that is found out it waits, and no longer."""
        self.begin(2000)
        self.repairs.requested(self.clients[0], tuple(range(1000, 1020)))
        self.repairs.requested(self.clients[1], (1500,))
        self.clock.pump([0.1, 0.02])
        self.repairs.requested(self.clients[2], (1003,))
        self.turn()
        self.assertEqual(self.sender.packets, [])
        self.assertEqual(self.by_tcp(), [0, 1, 2])

    def test_who_cannot_decode_and_asks_late(self) -> None:
        self.clients[7].decodes = False
        flight = self.begin(2000)
        self.ask(flight, self.all_but(7))
        self.clock.pump([0.1, 0.05, 0])
        self.ask(flight, [7])
        self.assertEqual(self.by_tcp(), [7])

    def test_who_asks_again_is_gathered_again(self) -> None:
        """Each lacks one or two packets more, and few packets of parity mend all of them."""
        flight = self.begin(2000)
        self.ask(flight, range(40))
        self.turn()
        first = len(self.sender.packets)
        for number, client in enumerate(self.clients):
            self.assertEqual(self.by_tcp(), [])
            self.repairs.requested(client, (1000 + number, 2000 + number))
        self.turn()
        self.assert_served(*[2] * 40)
        self.assertLess(len(self.sender.packets) - first, 14)
        self.assertEqual(self.by_tcp(), [])
        self.assertEqual(len(self.control.reports), 1, "what is lost again is no news")

    def test_few_who_ask_again_get_it_by_tcp(self) -> None:
        flight = self.begin(2000)
        self.ask(flight, range(40))
        self.turn()
        first = len(self.sender.packets)
        self.repairs.requested(self.clients[3], (1005,))
        self.assertEqual(self.by_tcp(), [])
        for number in self.all_but(3):
            self.repairs.done(self.clients[number], 1, NOTHING_LOST)
        self.assertEqual(self.by_tcp(), [3])
        self.assertEqual(len(self.sender.packets), first)
        self.repairs.requested(self.clients[3], (1006,))
        self.assertEqual(self.clients[3].by_tcp, [1005, 1006])

    def test_after_some_rounds_all_goes_by_tcp(self) -> None:
        flight = self.begin(2000)
        self.ask(flight, range(40))
        self.turn()
        for rounds in range(2, 5):
            for number, client in enumerate(self.clients):
                self.repairs.requested(client, (1000 + number, 2000 + number))
            self.turn()
            self.assert_served(*[rounds] * 40)
        sent = len(self.sender.packets)
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, (1000 + number, 2000 + number))
        self.turn()
        self.assertEqual(self.by_tcp(), list(range(40)))
        self.assertEqual(len(self.sender.packets), sent)

    def test_a_first_request_in_a_later_round(self) -> None:
        """The round waits for those who were served in the one before, and not for it."""
        flight = self.begin(2000)
        self.ask(flight, self.all_but(7))
        self.clock.pump([0.1, 0.05, 0])
        self.repairs.requested(self.clients[7], (1300, 1301))
        self.assertEqual(self.by_tcp(), [7])
        for number in self.all_but(7):
            self.assertEqual(len(self.told), 1)
            self.repairs.requested(self.clients[number], (1000 + number, 2000 + number))
        self.turn()
        self.assertEqual([client.served for client in self.clients], [2] * 7 + [0] + [2] * 32)
        self.assertEqual(len(self.told), 2)
        self.assertEqual(self.by_tcp(), [7])
        self.assertEqual(self.clients[7].by_tcp, [1300, 1301])

    def test_a_first_request_while_a_later_round_leaves(self) -> None:
        """It has heard of the first run, and is told of the second with the others."""
        flight = self.begin(2000)
        self.ask(flight, self.all_but(7))
        self.clock.pump([0.1, 0.05, 0])
        self.sender.takes_time = True
        for number in self.all_but(7):
            self.repairs.requested(self.clients[number], (1000 + number, 2000 + number))
        self.turn()
        self.ask(flight, [7])
        self.assertEqual((self.by_tcp(), self.clients[7].served), ([], 0))
        self.sender.finish()
        self.assertEqual([client.served for client in self.clients], [2] * 7 + [1] + [2] * 32)
        self.assertEqual(self.by_tcp(), [])


class Gathering(_RepairsTest):
    """How long requests are waited for."""

    def setUp(self) -> None:
        super().setUp()
        self.clients = [_Client() for _ in range(40)]

    def round(self, answer_s: float) -> None:
        """One in which all but one client ask after so long, and that one when all is over."""
        flight = self.begin(2000)
        self.clock.advance(answer_s)
        for number, client in enumerate(self.clients[1:]):
            self.repairs.requested(client, self.losses(flight, 0.05, number))
        self.clock.pump([2.0, 0, 0])
        self.repairs.requested(self.clients[0], (flight.buffer.ctl.packet_id_base,))
        self.retire(flight)

    def waited_s(self, latest_s: float = 2.0) -> float:
        """How long a round waits in which all but one client ask at once."""
        flight = self.begin(2000)
        for number, client in enumerate(self.clients[1:]):
            self.repairs.requested(client, self.losses(flight, 0.05, number))
        waited_ms = 0
        while not self.clients[1].served:
            self.clock.advance(0.001)
            waited_ms += 1
            self.assertLess(waited_ms, 1000 * latest_s)
        for client in self.clients:
            client.served = 0
        self.retire(flight)
        return waited_ms / 1000

    def test_in_the_beginning(self) -> None:
        self.assertApproximates(self.waited_s(), 0.1, 0.005)

    def test_quick_clients_are_not_waited_for_for_long(self) -> None:
        for _ in range(20):
            self.round(0.004)
        for client in self.clients:
            client.served = 0
        self.assertLess(self.waited_s(), 0.03)

    def test_slow_clients_are(self) -> None:
        for _ in range(8):
            self.round(0.25)
        for client in self.clients:
            client.served = 0
        self.assertGreater(self.waited_s(), 0.25)
        self.assertLess(self.waited_s(), 0.8)

    def test_one_slow_client_among_many_is_not(self) -> None:
        """The one that asks two seconds late in every round."""
        for _ in range(8):
            self.round(0.0)
        for client in self.clients:
            client.served = 0
        self.assertLess(self.waited_s(), 0.03)

    def test_requests_that_still_come_are_waited_for(self) -> None:
        flight = self.begin(2000)
        for number, client in enumerate(self.clients[1:]):
            self.repairs.requested(client, self.losses(flight, 0.05, number))
            self.clock.advance(0.015)
        self.assertEqual(self.clients[1].served, 0)
        self.clock.pump([0.02, 0, 0])
        self.assert_served(0, *[1] * 39)

    def test_but_not_for_ever(self) -> None:
        self.clients = [_Client() for _ in range(80)]
        flight = self.begin(2000)
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, self.losses(flight, 0.05, number))
            self.clock.advance(0.019)
            if self.clients[0].served:
                break
        self.assertApproximates(self.clock.seconds(), 1.0, 0.05)

    def test_requests_that_wait_to_be_read_count(self) -> None:
        """The server was busy with other things when the time was up."""
        flight = self.begin(2000)
        self.repairs.requested(self.clients[1], self.losses(flight, 0.05, 1))
        self.clock.callLater(0.3, self.read, flight)
        self.clock.advance(0.3)
        self.clock.pump([0.02, 0, 0, 0])
        self.assert_served(0, *[1] * 39)
        self.assertEqual([len(client.by_tcp) for client in self.clients], [0] * 40)

    def read(self, flight: Flight) -> None:
        for number in range(2, 40):
            self.repairs.requested(self.clients[number], self.losses(flight, 0.05, number))

    def test_the_first_one_comes_late(self) -> None:
        """Nobody had asked when the time was up; then the others are given a moment."""
        flight = self.begin(2000)
        self.clock.pump([0.1, 0.1, 0.1])
        for number, client in enumerate(self.clients[1:]):
            self.repairs.requested(client, self.losses(flight, 0.05, number))
        self.assertEqual(self.clients[1].served, 0)
        self.clock.pump([0.02, 0, 0])
        self.assert_served(0, *[1] * 39)
        self.assertEqual([len(client.by_tcp) for client in self.clients], [0] * 40)

    def test_nobody_asks_within_a_second(self) -> None:
        flight = self.begin(2000)
        self.clock.pump([0.1, 1.0, 0])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.repairs.requested(self.clients[0], self.losses(flight, 0.05, 0))
        self.assertNotEqual(self.clients[0].by_tcp, [])


class Leaving(_RepairsTest):
    """A client that is out is neither waited for nor thought of."""

    def test_before_it_has_answered(self) -> None:
        flight = self.begin()
        for number, client in enumerate(self.clients[:3]):
            self.repairs.requested(client, self.losses(flight, 0.2, number))
        self.repairs.left(self.clients[3])
        self.turn()
        self.assert_mended(flight, *(self.losses(flight, 0.2, seed) for seed in range(3)))

    def test_after_it_has_asked(self) -> None:
        self.begin()
        self.repairs.requested(self.clients[0], (1000,))
        self.repairs.left(self.clients[0])
        for client in self.clients[1:]:
            self.repairs.done(client, 1, NOTHING_LOST)
        self.turn()
        self.assertEqual(self.clients[0].by_tcp, [])
        ((*_, losses),) = self.control.reports
        self.assertNotIn(self.clients[0], losses)
        self.assertEqual(self.control.forgotten, self.clients[:1])

    def test_while_its_repairs_are_planned(self) -> None:
        flight = self.begin(4000)
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, self.losses(flight, 0.1, number))
        self.repairs.left(self.clients[0])
        self.turn()
        self.assert_mended(flight, *(self.losses(flight, 0.1, seed) for seed in range(1, 4)))

    def test_while_its_repairs_leave(self) -> None:
        """The next round does not wait for it."""
        self.clients = [_Client() for _ in range(40)]
        self.sender.takes_time = True
        flight = self.begin(2000)
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, self.losses(flight, 0.05, number))
        self.turn()
        self.assertNotEqual(self.sender.packets, [])
        self.repairs.left(self.clients[7])
        self.sender.finish()
        self.sender.takes_time = False
        self.assertEqual([client.served for client in self.clients], [1] * 7 + [0] + [1] * 32)
        for number, client in enumerate(self.clients):
            if number != 7:
                self.repairs.requested(client, (1000 + number, 2000 + number))
        self.turn()
        self.assertEqual([client.served for client in self.clients], [2] * 7 + [0] + [2] * 32)

    def test_everyone(self) -> None:
        flight = self.begin()
        for client in self.clients:
            self.repairs.left(client)
        self.turn()
        self.retire(flight)
        self.assertEqual(self.sender.packets, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_all_have_got_it_meanwhile(self) -> None:
        """Late datagrams have brought what is being planned, and the memory is another buffer's."""
        flight = self.begin(4000)
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, self.losses(flight, 0.1, number))
        self.retire(flight)
        self.turn()
        self.assertEqual(self.sender.packets, [])
        # They wait for nothing any more, and what they had asked for counts no longer.
        self.assertEqual([client.served for client in self.clients], [1] * 4)
        self.assertEqual(self.told, [], "nobody has to ask anew")

    def test_all_have_got_it_while_it_leaves(self) -> None:
        self.sender.takes_time = True
        flight = self.begin()
        for number, client in enumerate(self.clients[:3]):
            self.repairs.requested(client, self.losses(flight, 0.2, number))
        self.clock.pump([_GRACE_S, 0, 0])
        self.assertNotEqual(self.sender.packets, [])
        self.repairs.requested(self.clients[3], self.losses(flight, 0.2, 3))
        self.retire(flight)
        self.sender.finish()
        self.turn()
        self.assertEqual([client.served for client in self.clients], [1] * 4)
        self.assertEqual([client.by_tcp for client in self.clients], [[]] * 4)
        self.assertEqual(self.told, [])


class ParityAhead(_RepairsTest):
    """Of buffers of which forty clients lose something."""

    def setUp(self) -> None:
        super().setUp()
        self.clients = [_Client() for _ in range(40)]

    def lose(self, flight: Flight, count: int) -> None:
        """Every client loses so many packets, and says it when it has them."""
        for client in self.clients:
            self.repairs.done(client, flight.buffer.ctl.buffer_id, Lost(count, min(count, 1)))
        self.retire(flight)

    def ahead(self, flight: Flight) -> Deferred[None]:
        self.sender.is_urgent = False
        following = Deferred.fromCoroutine(self.repairs.send_ahead(flight))
        following.addErrback(self.failures.append)
        self.turn()
        return following

    def sent(self, packets: int = 2000) -> Flight:
        """A buffer has been multicast, and parity ahead with it."""
        flight = self.leaving(packets)
        self.successResultOf(self.ahead(flight))
        self.sender.is_urgent = True
        self.repairs.begin(flight, self.clients)
        return flight

    def test_nothing_is_lost(self) -> None:
        for _ in range(3):
            flight = self.sent()
            self.assertEqual(flight.ahead.count, 0)
            self.lose(flight, 0)
        self.assertEqual(self.sender.packets, [])
        self.assertEqual(self.repairs.rounds_told, 0)

    def test_it_mends_what_was_lost_of_the_last_buffer(self) -> None:
        self.lose(self.sent(), 20)
        flight = self.sent()
        run = flight.ahead
        self.assertEqual([seq for seq, _ in self.sender.packets], run.seqs)
        self.assertEqual(self.repairs.packets_coded, run.count)
        self.assertTrue(28 <= run.count <= 30, run.count)
        self.told.append(Repaired.of(flight.buffer.ctl.buffer_id, run))
        chance = random.Random(5)
        base = flight.buffer.ctl.packet_id_base
        self.assert_mended(flight, chance.sample(range(base, base + 2000), 20))

    def test_it_has_left_before_all_are_told(self) -> None:
        self.lose(self.sent(), 20)
        self.sender.takes_time = True
        flight = self.leaving(2000)
        following = self.ahead(flight)
        self.assertNoResult(following)
        self.sender.finish()
        self.successResultOf(following)
        self.assertGreater(flight.ahead.count, 0)

    def test_few_who_ask_behind_it_get_it_by_tcp(self) -> None:
        self.lose(self.sent(), 20)
        flight = self.sent()
        before = len(self.sender.packets)
        self.assertEqual(self.repairs.rounds_told, 1)
        base = flight.buffer.ctl.packet_id_base
        self.repairs.requested(self.clients[0], (base, base + 5))
        for client in self.clients[1:]:
            self.repairs.done(client, flight.buffer.ctl.buffer_id, Lost(20, 20))
        self.turn()
        self.assertEqual(self.clients[0].by_tcp, [base, base + 5])
        self.assertEqual(len(self.sender.packets), before)
        shares = self.control.reports[-1][-1]
        self.assertTrue(0.014 < shares[self.clients[0]] < 0.02, shares[self.clients[0]])

    def test_many_who_ask_behind_it_are_served_by_more_of_it(self) -> None:
        """Never by combinations: they lack more than they ask for."""
        self.lose(self.sent(), 20)
        flight = self.sent()
        base = flight.buffer.ctl.packet_id_base
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, tuple(range(base + number, base + number + 4)))
        self.turn()
        [told] = self.told
        self.assertTrue(0 < told.count < 20, told.count)
        self.assertEqual(self.repairs.rounds_told, 2)
        self.assertEqual([client.served for client in self.clients], [1] * 40)

    def test_the_end_has_none(self) -> None:
        self.lose(self.sent(), 20)
        flight = self.sent(0)
        self.assertEqual(flight.ahead.count, 0)

    def test_the_session_ends_while_it_is_made(self) -> None:
        self.lose(self.sent(), 20)
        flight = self.leaving(8000)
        self.sender.is_urgent = False
        following = Deferred.fromCoroutine(self.repairs.send_ahead(flight))
        self.assertNoResult(following)
        self.repairs.stop()
        self.turn()
        self.successResultOf(following)
        self.assertEqual((flight.ahead.count, self.sender.packets), (0, []))


class Planning(_RepairsTest):
    """Thousands of packets do not hold up the reactor."""

    def planned(self, share: float) -> list[str]:
        """What happens in which order while a large round is planned."""
        happened: list[str] = []

        def turn(left: int) -> None:
            happened.append("turn")
            if left:
                self.clock.callLater(0, turn, left - 1)

        def plan(wanted: Sequence[Sequence[int]], terms_limit: int) -> list[list[int]]:
            seqs = set().union(*wanted)
            self.assertLessEqual(max(seqs) - min(seqs), 1024)
            happened.append("plan")
            return planner(wanted, terms_limit)

        flight = self.begin(8000)
        with mock.patch("kollacast.repair.xor.plan", plan):
            self.clock.callLater(0, turn, 20)
            for number, client in enumerate(self.clients):
                self.repairs.requested(client, self.losses(flight, share, number))
            self.turn()
        if self.sender.packets:
            self.assert_mended(flight, *(self.losses(flight, share, seed) for seed in range(4)))
        return happened

    def test_in_slices_with_the_reactor_s_turn_in_between(self) -> None:
        happened = self.planned(0.1)
        self.assertGreater(happened.count("plan"), 7)
        self.assertNotIn(("plan", "plan"), [*pairwise(happened)])
        self.assertNotEqual(self.sender.packets, [])

    def test_also_where_it_comes_to_nothing(self) -> None:
        """All of what one lacks and next to nothing of the others."""
        self.clients = self.clients[:2]
        self.clients[1].decodes = True
        with mock.patch.object(self, "losses", self.mostly_of_one):
            happened = self.planned(0.5)
        self.assertEqual(self.sender.packets, [])
        self.assertGreater(happened.count("plan"), 7)
        self.assertNotIn(("plan", "plan"), [*pairwise(happened)])
        self.assertEqual(len(self.clients[0].by_tcp), 8000)

    def mostly_of_one(self, flight: Flight, share: float, seed: int) -> tuple[int, ...]:
        base = flight.buffer.ctl.packet_id_base
        return tuple(range(base, base + 8000, 500 if seed else 1))

    def test_what_is_coded_is_never_more_than_the_buffer(self) -> None:
        self.clients = [_Client() for _ in range(20)]
        flight = self.begin(2000)
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, self.losses(flight, 0.7, number))
        self.turn()
        self.assertLessEqual(len(self.sender.combinations), 2000)
        self.assert_mended(flight, *(self.losses(flight, 0.7, seed) for seed in range(20)))


class Reporting(_RepairsTest):
    """The rate control learns what was lost, once a buffer and client."""

    def test_all_at_once(self) -> None:
        self.begin()
        self.repairs.requested(self.clients[0], tuple(range(1000, 1020)))
        for client in self.clients[1:]:
            self.repairs.done(client, 1, NOTHING_LOST)
        losses = dict.fromkeys(self.clients, 0.0) | {self.clients[0]: 0.1}
        self.assertEqual(self.control.reports, [(3, 1e9, _PACKETS, losses)])
        self.repairs.requested(self.clients[0], (1003,))
        self.repairs.done(self.clients[0], 1, NOTHING_LOST)
        self.assertEqual(len(self.control.reports), 1)

    def test_how_many_are_lost_at_a_time(self) -> None:
        self.begin()
        first, second, third, last = self.clients
        self.repairs.requested(first, (*range(1000, 1020), *range(1040, 1050)))
        self.repairs.requested(second, (1000, 1002, 1004))
        self.repairs.requested(third, tuple(range(1000, 1030)))
        self.repairs.done(last, 1, NOTHING_LOST)
        self.assertEqual(self.control.bursts, {first: 15.0, second: 1.0, third: 30.0})

    def test_late_ones_when_all_have_come(self) -> None:
        """One report a client would cost as much as there are clients, for each of them."""
        self.begin()
        self.repairs.done(self.clients[0], 1, NOTHING_LOST)
        self.clock.advance(_GRACE_S)
        self.repairs.requested(self.clients[1], tuple(range(1000, 1100)))
        self.repairs.done(self.clients[2], 1, NOTHING_LOST)
        self.repairs.requested(self.clients[3], (1000,))
        self.assertEqual(
            [losses for *_, losses in self.control.reports],
            [
                {self.clients[0]: 0.0},
                {self.clients[1]: 0.5, self.clients[2]: 0.0, self.clients[3]: 0.005},
            ],
        )

    def test_late_ones_when_the_last_one_has_left(self) -> None:
        self.begin()
        self.clock.advance(_GRACE_S)
        for client in self.clients[:3]:
            self.repairs.requested(client, (1000,))
        self.assertEqual(self.control.reports, [])
        self.repairs.left(self.clients[3])
        ((*_, losses),) = self.control.reports
        self.assertEqual(losses, dict.fromkeys(self.clients[:3], 0.005))

    def test_a_buffer_whose_rate_is_not_known(self) -> None:
        flight = self.begin()
        flight.sent_bps = 0.0
        for client in self.clients:
            self.repairs.done(client, 1, NOTHING_LOST)
        self.assertEqual(self.control.reports, [])

    def test_what_was_lost_where_nobody_asks(self) -> None:
        self.begin()
        for number, client in enumerate(self.clients):
            self.repairs.done(client, 1, Lost(10 * number, 5 * number))
        [(*_, losses)] = self.control.reports
        self.assertEqual(list(losses.values()), [0.0, 0.05, 0.1, 0.15])
        self.assertEqual(self.control.bursts, dict.fromkeys(self.clients[1:], 2.0))


class Untagged(_RepairsTest):
    """A dialect without coded repairs has the same rounds, and TCP for all."""

    dialect = "jasmine"

    def test_everyone_is_served_by_tcp(self) -> None:
        flight = self.begin()
        for number, client in enumerate(self.clients):
            self.repairs.requested(client, self.losses(flight, 0.2, number))
        self.turn()
        self.assertEqual(self.sender.packets, [])
        for number, client in enumerate(self.clients):
            self.assertEqual(client.by_tcp, list(self.losses(flight, 0.2, number)))
        self.assert_served(0, 0, 0, 0)


class OneServer(MemoryTestCase):
    """Retransmissions of a whole server, to clients driven by hand."""

    packets = 1000

    def setUp(self) -> None:
        super().setUp()
        self.network = Network()

    def test_who_asks_for_everything_does_not_starve_another(self) -> None:
        self.network.serve(
            os.urandom(self.packets * 1460), clients=2, mtu=1500, buffer_packets=self.packets
        )
        greedy, modest = self.network.raw_client(), self.network.raw_client()
        for client in (greedy, modest):
            client.answer(BufferCtl)
            client.hello()
        self.network.run_until(lambda: modest.count(Sent))
        greedy.transport.write(Request(tuple(range(self.packets))).encode(KOLLACAST))
        modest.transport.write(Request((7,)).encode(KOLLACAST))
        self.network.run_until(lambda: modest.count(Packet))
        self.assertLess(greedy.count(Packet), self.packets / 2)
        self.assertEqual(modest.last(Packet).seq, 7)
        self.network.run_until(lambda: greedy.count(Packet) == self.packets)

    def test_who_asks_as_others_are_served_may_ask_anew(self) -> None:
        """Its first request for all has crossed the word that they are, and it hears that, too."""
        self.network.fate = lambda port, data: () if data[:4] < b"\0\0\0\x32" else (data,)
        image = os.urandom(self.packets * 1460)
        server = self.network.serve(
            image, clients=3, mtu=1500, buffer_packets=self.packets, window=1
        )
        client = self.network.raw_client()
        client.hello()
        client.answer(BufferCtl)
        others = [self.network.join() for _ in range(2)]
        self.network.run_until(lambda: client.count(Repaired))
        everything = Request(tuple(range(self.packets))).encode(KOLLACAST)
        client.transport.write(2 * everything)
        self.network.run_for(1.0)
        # But for what was under way already, each comes once.
        self.assertIsNone(client.lost)
        packets = [message.seq for message in client.heard if isinstance(message, Packet)]
        self.assertEqual({*packets}, {*range(self.packets)})
        self.assertLess(len(packets), 1.2 * self.packets)
        client.answer(Sent, Digest)
        self.assertEqual(server.finish().report["clients_verified"], 3)
        self.assertEqual([other.sink.data for other in others], [image] * 2)

    def multicast_s(self, requested: int) -> float:
        """When the second of two buffers has left, after a request for so much of the first."""
        network = Network()
        image = os.urandom(2 * 100 * 1460)
        network.serve(image, mtu=1500, buffer_packets=100, window=2, rate_bps=8_000_000)
        client = network.raw_client()
        client.hello()
        network.run_until(lambda: client.count(BufferCtl) == 3)
        client.ready()
        network.run_until(lambda: client.count(Sent))
        began = network.clock.seconds()
        client.transport.write(
            Request(tuple(range(requested))).encode(KOLLACAST) + Credit(0, 2).encode(KOLLACAST)
        )
        network.run_until(lambda: sum(data[0] < 0x80 for data in network.datagrams) == 200)
        self.assertEqual(client.count(Packet), requested)
        return network.clock.seconds() - began

    def test_retransmissions_leave_at_the_cost_of_the_rate(self) -> None:
        """At 8 Mbit/s, 100 packets are 0.15 s of the link, by whatever way they leave."""
        more = self.multicast_s(100) - self.multicast_s(0)
        self.assertGreater(more, 0.1)
        self.assertLess(more, 0.2)


class ManyHosts(MemoryTestCase):
    """A server and real clients, of which each loses datagrams on its own."""

    def test_losses_cost_little_more_than_those_of_one(self) -> None:
        hosts, loss, packets = 40, 0.03, 3000
        network = Network()
        chance = random.Random(7)
        network.fate = lambda port, data: () if chance.random() < loss else (data,)
        image = random.Random(8).randbytes(packets * 160 - 7)
        # A buffer takes so long that the word of the next one is repeated meanwhile.
        server = network.serve(
            image, clients=hosts, mtu=200, buffer_packets=1000, rate_bps=100_000_000
        )
        clients = [network.join() for _ in range(hosts)]
        network.run_until(lambda: server.outcome is not None)
        network.settle()
        report = server.finish().report
        self.assertEqual(report["clients_verified"], hosts)
        for client in clients:
            self.assertEqual(client.sink.data, image)
        self.assertLess(report["packets_coded"], 3 * loss * packets)
        tallies = [client.account.copy.tally for client in clients]
        decoded = sum(tally.decoded for tally in tallies)
        self.assertGreater(decoded, 0.9 * loss * hosts * packets)
        self.assertLess(sum(tally.retransmitted for tally in tallies), 0.01 * decoded)
