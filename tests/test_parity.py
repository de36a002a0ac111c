"""Parity packets: which packets they are of, how they are solved, and how many there are."""

from __future__ import annotations

import hashlib
import importlib
import random
from collections import deque
from collections.abc import Callable, Iterable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast import repair
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.repair import Choice, rows
from kollacast.repair.elimination import System
from kollacast.repair.parity import ParityEncoder
from kollacast.repair.scheme import Demand, Made, Offer, Slices
from kollacast.wire import parity
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import Repaired
from kollacast.wire.parity import MAX_LAYERS, MAX_PARITY, ParityRun
from kollacast.wire.recipes import PARITY_BASE, SEQ_SPAN, combination_seq, parity_seq
from kollacast.wire.structures import WireError
from tests.vectors import PROPERTY

_ENGINE, _ = best_crc32c()
_CAPACITY = 40
_CODEC = KOLLACAST.codec(7, _ENGINE)
_FIRST = 100


def _all(work: Slices[object]) -> tuple[object, int]:
    """What comes of it, and in how many slices."""
    slices = 1
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value, slices
        slices += 1


def _parity(offer: Offer) -> ParityRun:
    made, _ = _all(offer.make())
    assert isinstance(made, Made)
    return made.parity


def _members(run: ParityRun, packets: int) -> list[set[int]]:
    """Which slots of the buffer each parity packet of a run is of."""
    sums: list[set[int]] = [set() for _ in range(run.count)]
    for order in parity.orders(run, packets):
        for index, members in enumerate(sums):
            part = order[parity.places(run, packets, index)]
            members ^= {slot for slot in part if slot < packets}
    return sums


class Layers(unittest.SynchronousTestCase):
    def test_byte_by_byte(self) -> None:
        """SHAKE-128 of a0000000, two words of 16 bits for each layer: a step and a beginning."""
        stream = hashlib.shake_128(bytes.fromhex("a0000000")).hexdigest(8)
        self.assertEqual(stream, "1e64d032f48e2751")
        # Of 11 places: 0x1e64 is 0 modulo 10 and 0xd032 is 3 modulo 11; then they are 6 and 0.
        run = ParityRun(0xA000_0000, 4, 2)
        self.assertEqual(
            list(parity.orders(run, 10)),
            [[3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 2], [0, 7, 3, 10, 6, 2, 9, 5, 1, 8, 4]],
        )
        places = [parity.places(run, 10, index) for index in range(4)]
        self.assertEqual(places, [slice(0, 2), slice(2, 5), slice(5, 8), slice(8, 11)])
        # There is no slot 10; slots 6, 9 and 1 are twice in one sum.
        self.assertEqual(_members(run, 10), [{3, 4, 0, 7}, {5, 7, 3}, {8, 2, 5}, {0, 2, 8, 4}])

    def test_more_parity_than_packets(self) -> None:
        """Each has a place of its own, but not each a packet."""
        run = ParityRun(0xA000_0000, 8, 1)
        self.assertEqual(list(parity.orders(run, 5)), [[3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 2]])
        self.assertEqual(_members(run, 5), [{3}, {4}, set(), set(), set(), set(), {0}, {1, 2}])

    def test_places_are_a_prime_number(self) -> None:
        for packets, count, places in (
            (1, 1, 2),
            (2, 1, 2),
            (3, 2, 3),
            (4, 1, 5),
            (8, 9, 11),
            (121, 95, 127),
            (8618, 95, 8623),
            (65536, 95, 65537),
        ):
            self.assertEqual(parity.span(ParityRun(PARITY_BASE, count, 1), packets), places)

    @PROPERTY
    @given(
        st.integers(PARITY_BASE, PARITY_BASE + SEQ_SPAN - 1),
        st.integers(1, MAX_PARITY),
        st.integers(1, MAX_LAYERS),
        st.integers(1, 3000) | st.integers(65500, 65536),
    )
    def test_each_layer_has_all_packets_once(
        self, first: int, count: int, layers: int, packets: int
    ) -> None:
        run = ParityRun(first, count, layers)
        places = parity.span(run, packets)
        self.assertGreaterEqual(places, max(packets, count))
        drawn = list(parity.orders(run, packets))
        self.assertEqual(len(drawn), layers)
        for order in drawn:
            self.assertEqual(sorted(order), list(range(places)))
        end = 0
        for index in range(count):
            part = parity.places(run, packets, index)
            self.assertEqual(part.start, end)
            self.assertGreater(part.stop, part.start)
            end = part.stop
        self.assertEqual(end, places)

    def test_whatever_slots_are_lost_they_are_spread_evenly(self) -> None:
        """Side by side, or as far apart as a divisor of the buffer, and however its size is."""
        met = dict.fromkeys((1, 40, 100), 0)
        for number in range(40):
            run = ParityRun(parity_seq(1000 * number), 100, 5)
            sums = _members(run, 2000)
            for distance in met:
                lost = set(range(7, 7 + 20 * distance, distance))
                met[distance] += sum(bool(members & lost) for members in sums)
        # Of 20 packets that are each in 5 sums of 100.
        expected = 100 * (1 - 0.99**100)
        for count in met.values():
            self.assertLess(abs(count / 40 - expected), 3)

    def test_seqs_go_round(self) -> None:
        run = ParityRun(parity_seq(-2), 4, 1)
        self.assertEqual(run.seqs, [0xBFFF_FFFE, 0xBFFF_FFFF, 0xA000_0000, 0xA000_0001])
        self.assertEqual(combination_seq(SEQ_SPAN + 1), 0x8000_0001)

    def test_nonsense_in_what_is_told(self) -> None:
        for first, count, layers in (
            (PARITY_BASE - 1, 1, 1),
            (PARITY_BASE + SEQ_SPAN, 1, 1),
            (PARITY_BASE, MAX_PARITY + 1, 1),
            (PARITY_BASE, 1, 0),
            (PARITY_BASE, 1, 17),
            (PARITY_BASE, 1, 0xFFFF_FFFF),
        ):
            data = Repaired(1, first, count, layers).encode(KOLLACAST)
            reading = Repaired.decode(KOLLACAST, 0)
            self.assertEqual(next(reading), 16)
            self.assertRaises(WireError, reading.send, data[1:])


class Elimination(unittest.SynchronousTestCase):
    """Unknowns 0 to n - 1 of eight bits; a sum is told by its members."""

    def system(self, values: list[int], sums: Iterable[Iterable[int]]) -> System:
        system = System(range(len(values)), 8)
        for members in sums:
            row = 0
            for name in members:
                row ^= system.unit(name) ^ values[name]
            system.add(row)
        return system

    def solve(self, system: System, come: dict[int, int] | None = None) -> dict[int, int]:
        deque(system.know(come or {}))
        deque(system.reduce())
        return dict(system.take_solved())

    def test_what_is_determined_and_what_is_free(self) -> None:
        values = [3, 0, 255, 17]
        system = self.system(values, [(0, 1), (0, 1, 2), (1, 0)])
        self.assertFalse(system.is_full)
        self.assertEqual(self.solve(system), {2: 255})
        self.assertEqual(system.free(), [0, 3])
        self.assertEqual(self.solve(system, {0: 3}), {1: 0})
        self.assertEqual(system.free(), [3])
        self.assertFalse(system.has_rows)

    def test_a_pivot_that_comes_by_itself(self) -> None:
        values = [1, 2, 4, 8]
        system = self.system(values, [(1, 3), (0, 3, 2)])
        self.assertEqual(self.solve(system, {3: 8}), {1: 2})
        self.assertEqual(self.solve(system, {3: 8, 2: 4}), {0: 1})
        self.assertEqual(system.free(), [])
        self.assertTrue(system.is_full)

    @PROPERTY
    @given(
        st.lists(st.integers(0, 255), min_size=1, max_size=12),
        st.lists(st.sets(st.integers(0, 11)), max_size=16),
        st.data(),
    )
    def test_the_free_ones_are_enough_and_none_too_many(
        self, values: list[int], sums: list[set[int]], data: st.DataObject
    ) -> None:
        names = range(len(values))
        sums = [members & set(names) for members in sums]
        system = self.system(values, sums)
        early = data.draw(st.sets(st.sampled_from(names)))
        found = self.solve(system, {name: values[name] for name in early})
        free = system.free()
        masks = [sum(1 << n for n in members - early) for members in sums]
        self.assertEqual(len(free), len(values) - len(early) - _rank(masks))
        found |= self.solve(system, {name: values[name] for name in free})
        self.assertEqual(found, {n: values[n] for n in names if n not in early | set(free)})


def _rank(masks: list[int]) -> int:
    rank = 0
    while masks := [mask for mask in masks if mask]:
        pivot = max(masks)
        masks = [m ^ pivot if m.bit_length() == pivot.bit_length() else m for m in masks]
        rank += 1
    return rank


class Sums(unittest.SynchronousTestCase):
    """Two ways to add up: in whole numbers, and with NumPy once that is loaded."""

    def setUp(self) -> None:
        self.addCleanup(setattr, rows, "_numpy", rows._numpy)

    def sums(self, run: ParityRun, payload: bytes, capacity: int) -> tuple[object, int]:
        return _all(rows.sums(run, memoryview(payload), capacity))

    def test_both_add_up_alike(self) -> None:
        for capacity in (4, 100, 104, 1460):
            for packets in (1, 2, 7, 300):
                for count in (1, 3, 40, 400):
                    for layers in (1, 5, 16):
                        run = ParityRun(parity_seq(packets * count), count, layers)
                        payload = random.Random(packets).randbytes(packets * capacity)
                        rows._numpy = None
                        plain, _ = self.sums(run, payload, capacity)
                        rows.load_numpy()
                        self.assertIsNotNone(rows._numpy)
                        fast, _ = self.sums(run, payload, capacity)
                        self.assertEqual(fast, plain, (capacity, packets, count, layers))

    def test_both_in_slices(self) -> None:
        for numpy in (None, importlib.import_module("numpy")):
            rows._numpy = numpy
            _, slices = self.sums(ParityRun(parity_seq(0), 500, 9), bytes(8000 * 4), 4)
            self.assertGreaterEqual(slices, 5)

    def test_it_is_loaded_for_many_clients_where_it_is_installed(self) -> None:
        rows._numpy = None
        repair.prepare(16)
        self.assertIsNone(rows._numpy)
        repair.prepare(17)
        self.assertIsNotNone(rows._numpy)
        self.patch(importlib, "import_module", _not_installed)
        repair.prepare(17)
        self.assertIsNone(rows._numpy)


def _not_installed(name: str) -> None:
    raise ImportError(name)


class _Transfer:
    """One buffer at a server and at a client that has lost ``lost`` of it."""

    def __init__(self, packets: int, lost: Iterable[int], *, size: int | None = None) -> None:
        size = packets * _CAPACITY - 11 if size is None else size
        self.source = PacketBuffer(_CAPACITY, packets)
        self.source.payload[:size] = random.Random(packets).randbytes(size)
        self.ctl = self.source.announce(1, _FIRST, size)
        self.intake = Intake(_CODEC, _CAPACITY)
        self.target = PacketBuffer(_CAPACITY, packets)
        self.target.payload[:] = b"x" * len(self.target.payload)
        self.target.init(self.ctl)
        self.intake.arm(self.target)
        self.lost = sorted(_FIRST + slot for slot in lost)
        for seq in range(_FIRST, _FIRST + packets):
            if seq not in set(self.lost):
                self.target.put(seq, self.payload(seq))
        self.encoder = ParityEncoder(_CAPACITY)

    def payload(self, seq: int) -> memoryview:
        payload = self.source.get(seq)
        assert payload is not None
        return payload

    def offer(self, wanted: int | None = None, loss: float | None = None) -> Offer:
        seqs = self.lost if wanted is None else self.lost[:wanted]
        demand = Demand(_FIRST, self.source.full(), _CAPACITY, [seqs, seqs], loss)
        offer, _ = _all(self.encoder.plan(demand))
        return offer  # type: ignore[return-value]

    def made(self, **words: object) -> Made:
        made, _ = _all(self.offer(**words).make())  # type: ignore[arg-type]
        assert isinstance(made, Made)
        return made

    def send(self, made: Made, keep: Callable[[int], bool] = lambda index: True) -> None:
        packets = [(s + n, p) for s, run in made.runs for n, p in enumerate(run)]
        for index, (seq, payload) in enumerate(packets):
            if keep(index):
                self.datagram(seq, payload)

    def datagram(self, seq: int, payload: bytes) -> None:
        self.intake.datagram(_CODEC.sealed(seq, [memoryview(payload)]) + payload)

    def told(self, run: ParityRun | None) -> list[int]:
        """What is still missing."""
        deque(self.intake.mend(self.target, run))
        return self.target.missing()

    def by_tcp(self, seqs: Iterable[int]) -> None:
        for seq in list(seqs):
            self.target.put(seq, self.payload(seq))
            if self.intake.came(self.target, seq):
                deque(self.intake.mend(self.target, None))

    @property
    def is_whole(self) -> bool:
        size = self.ctl.buffer_size
        return self.target.complete and b"".join(self.target.views()) == self.source.payload[:size]


class Solving(unittest.SynchronousTestCase):
    """An encoder and a client's intake."""

    def test_losses_of_any_number_in_buffers_of_any_size(self) -> None:
        asked = 0
        for packets in (1, 2, 3, 7, 16, 60, 300, 1500):
            for lacking in {1, 2, packets // 10, packets // 3} - {0}:
                if lacking > packets / 2:
                    continue
                lost = random.Random(lacking).sample(range(packets), lacking)
                transfer = _Transfer(packets, lost)
                made = transfer.made()
                transfer.send(made)
                transfer.told(made.parity)
                needed = transfer.intake.needed(transfer.target)
                asked += len(needed)
                transfer.by_tcp(needed)
                self.assertTrue(transfer.is_whole, (packets, lacking))
                decoded = transfer.intake.counts.decoded
                self.assertEqual(decoded + len(needed), lacking)
        self.assertLess(asked, 5)

    def test_it_takes_no_more_than_the_client_lacks_and_a_few(self) -> None:
        transfer = _Transfer(2000, range(0, 2000, 40))
        made = transfer.made()
        self.assertLess(made.parity.count, 63)
        transfer.send(made, lambda index: index < 53)
        self.assertEqual(transfer.told(made.parity), [])
        self.assertTrue(transfer.is_whole)

    def test_too_few_have_come(self) -> None:
        """What is lacking is asked for and no more, and then all is there."""
        transfer = _Transfer(2000, range(0, 2000, 40))
        made = transfer.made()
        transfer.send(made, lambda index: index < 30)
        transfer.told(made.parity)
        needed = transfer.intake.needed(transfer.target)
        self.assertEqual(len(needed), 20)
        self.assertFalse(transfer.target.complete)
        transfer.by_tcp(needed)
        self.assertTrue(transfer.is_whole)

    def test_none_has_come(self) -> None:
        transfer = _Transfer(200, range(7))
        self.assertEqual(transfer.told(transfer.made().parity), transfer.lost)
        self.assertEqual(transfer.intake.needed(transfer.target), transfer.lost)
        transfer.by_tcp(transfer.lost)
        self.assertTrue(transfer.is_whole)

    def test_a_second_round_completes_the_first(self) -> None:
        transfer = _Transfer(2000, range(0, 2000, 40))
        made = transfer.made()
        transfer.send(made, lambda index: index < 40)
        transfer.told(made.parity)
        self.assertEqual(len(transfer.intake.needed(transfer.target)), 10)
        again = transfer.made(wanted=10, loss=0.02)
        self.assertLess(again.parity.count, 25)
        transfer.send(again)
        self.assertEqual(transfer.told(again.parity), [])
        self.assertTrue(transfer.is_whole)

    def test_what_comes_late_by_multicast_between_the_rounds(self) -> None:
        transfer = _Transfer(400, range(0, 400, 8))
        made = transfer.made()
        transfer.send(made, lambda index: index < 30)
        transfer.told(made.parity)
        for seq in transfer.lost[::3]:
            transfer.datagram(seq, bytes(transfer.payload(seq)))
        again = transfer.made(wanted=20, loss=0.02)
        transfer.send(again)
        self.assertEqual(transfer.told(again.parity), [])
        self.assertTrue(transfer.is_whole)

    def test_what_comes_while_it_is_solved(self) -> None:
        transfer = _Transfer(9000, range(0, 9000, 100))
        made = transfer.made()
        transfer.send(made, lambda index: index < 60)
        work = transfer.intake.mend(transfer.target, made.parity)
        late = iter(transfer.lost)
        slices = 0
        for _ in work:
            slices += 1
            for seq, _ in zip(late, range(3), strict=False):
                transfer.target.put(seq, transfer.payload(seq))
        self.assertGreater(slices, 4)
        transfer.by_tcp(transfer.intake.needed(transfer.target))
        self.assertTrue(transfer.is_whole)

    def test_packets_that_come_twice_count_once(self) -> None:
        needed = []
        for times in (1, 3):
            transfer = _Transfer(200, range(10))
            made = transfer.made()
            for _ in range(times):
                transfer.send(made, lambda index: index < 8)
            transfer.told(made.parity)
            needed.append(transfer.intake.needed(transfer.target))
        self.assertEqual(needed[0], needed[1])
        self.assertGreaterEqual(len(needed[0]), 2)

    def test_all_of_it_is_here_by_then(self) -> None:
        transfer = _Transfer(200, range(10))
        made = transfer.made()
        transfer.send(made)
        transfer.by_tcp(transfer.lost)
        self.assertEqual(transfer.told(made.parity), [])
        self.assertEqual(transfer.intake.counts.decoded, 0)
        self.assertTrue(transfer.is_whole)

    def test_a_flood_pushes_out_what_came_before_it(self) -> None:
        """What nobody has told of costs no more memory than a bounded part of a buffer."""
        transfer = _Transfer(20, range(3))
        made = transfer.made()
        transfer.send(made)
        kept = transfer.intake._decoder.parity._kept  # type: ignore[union-attr]
        most = 8 * 1024 * 1024 // _CAPACITY
        payload = memoryview(bytes(_CAPACITY))
        for number in range(most):
            transfer.intake._decoder.take(parity_seq(1000 + number), payload)  # type: ignore[union-attr]
        self.assertEqual(len(kept), most)
        self.assertEqual(transfer.told(made.parity), transfer.lost)

    def test_short_packets_are_none(self) -> None:
        transfer = _Transfer(20, range(3))
        transfer.datagram(PARITY_BASE, b"short")
        self.assertEqual(transfer.told(ParityRun(PARITY_BASE, 1, 5)), transfer.lost)

    def test_forged_ones_touch_nothing_that_has_come(self) -> None:
        transfer = _Transfer(200, range(10))
        made = transfer.made()
        for seq in made.parity.seqs:
            transfer.datagram(seq, random.Random(seq).randbytes(_CAPACITY))
        transfer.told(made.parity)
        for seq in set(range(_FIRST, _FIRST + 200)) - set(transfer.lost):
            self.assertEqual(transfer.target.get(seq), transfer.payload(seq))

    def test_a_buffer_that_is_through_leaves_nothing(self) -> None:
        transfer = _Transfer(200, range(10))
        made = transfer.made()
        transfer.send(made, lambda index: index < 5)
        transfer.told(made.parity)
        transfer.intake.disarm(transfer.target)
        self.assertEqual(transfer.intake.needed(transfer.target), [])
        self.assertFalse(transfer.intake.came(transfer.target, _FIRST))


class Making(unittest.SynchronousTestCase):
    """How many there are, and in what portions they are made."""

    def test_they_are_made_in_slices(self) -> None:
        """Packets are read, layers are put in order, and packets are added up."""
        transfer = _Transfer(9000, range(0, 9000, 100))
        made, slices = _all(transfer.offer().make())
        assert isinstance(made, Made)
        self.assertEqual(made.parity.layers, 5)
        self.assertGreaterEqual(slices, 9 + 5 + 5 * 9000 // 20_000)

    def test_no_run_is_too_much(self) -> None:
        for packets in (20, 500, 4300, 8618, 65536):
            for lacking in (1, 2, 5, 9, 20, 100, 400, 768):
                for loss in (None, 0.0, 0.01, 0.5):
                    wanted = [range(_FIRST, _FIRST + lacking)] * 2
                    demand = Demand(_FIRST, memoryview(bytes(packets)), 1, wanted, loss)
                    offer, _ = _all(ParityEncoder(_CAPACITY).plan(demand))
                    if lacking > packets or (lacking > packets / 2 and loss is None):
                        self.assertIsNone(offer)
                        continue
                    run = _parity(offer)  # type: ignore[arg-type]
                    self.assertLessEqual(run.count, MAX_PARITY)
                    self.assertLessEqual(run.layers, MAX_LAYERS)

    def test_the_more_is_lost_of_it_and_the_longer_it_is_the_more_layers(self) -> None:
        """As many of each packet's sums come as if none were lost; all together are not nothing."""
        for packets, lacking, layers in (
            (8618, 1, 5),
            (8618, 86, 5),
            (4000, 240, 7),
            (300, 60, 7),
            (20, 10, 11),
            (1536, 768, 15),
        ):
            wanted = [range(_FIRST, _FIRST + lacking)] * 2
            demand = Demand(_FIRST, memoryview(bytes(packets)), 1, wanted)
            offer, _ = _all(ParityEncoder(_CAPACITY).plan(demand))
            self.assertEqual(_parity(offer).layers, layers)  # type: ignore[arg-type]

    def test_losses_of_many_patterns_are_mended(self) -> None:
        """A few packets more have come than are lacking: seldom one has to be asked for."""
        for packets, lost in (
            (80, lambda chance: chance.sample(range(80), 40)),  # where half of all is lost
            (2000, lambda chance: range(0, 2000, 40)),  # at a distance that divides the buffer
            (2000, lambda chance: range(500, 600)),
            (2000, lambda chance: chance.sample(range(2000), 100)),
        ):
            asked = 0
            for trial in range(20):
                chance = random.Random(trial)
                transfer = _Transfer(packets, lost(chance))
                transfer.encoder.packets = 1000 * trial
                made = transfer.made()
                seen = range(made.parity.count)
                kept = set(chance.sample(seen, len(transfer.lost) + 8))
                transfer.send(made, kept.__contains__)
                transfer.told(made.parity)
                asked += len(transfer.intake.needed(transfer.target))
            self.assertLess(asked, 6, packets)

    def test_runs_do_not_share_seqs(self) -> None:
        transfer = _Transfer(200, range(10))
        first, second = transfer.made(), transfer.made()
        self.assertEqual(second.parity.first, first.parity.first + first.parity.count)

    def test_where_seqs_go_round_they_leave_in_two_runs(self) -> None:
        transfer = _Transfer(200, range(10))
        transfer.encoder.packets = SEQ_SPAN - 4
        made = transfer.made()
        (first, run), (second, _) = made.runs
        self.assertEqual((first, len(run), second), (0xBFFF_FFFC, 4, PARITY_BASE))
        transfer.send(made)
        self.assertEqual(transfer.told(made.parity), [])
        self.assertTrue(transfer.is_whole)


class Choosing(unittest.SynchronousTestCase):
    """Parity, combinations, or TCP: whatever takes the fewest packets."""

    def offer(self, packets: int, counts: Iterable[int], **words: float) -> Offer | None:
        chance = random.Random(1)
        seqs = range(_FIRST, _FIRST + packets)
        wanted = [sorted(chance.sample(seqs, count)) for count in counts]
        demand = Demand(_FIRST, memoryview(bytes(packets)), 1, wanted, **words)
        offer, _ = _all(Choice(1460).plan(demand))
        return offer  # type: ignore[return-value]

    def is_parity(self, *args: object, **words: float) -> bool | None:
        offer = self.offer(*args, **words)  # type: ignore[arg-type]
        return None if offer is None else _parity(offer).count > 0

    def test_many_clients(self) -> None:
        """As many as the worst one lacks, and what it may lose of them."""
        offer = self.offer(4000, [40] * 999 + [60])
        assert offer is not None
        self.assertLess(offer.cost, 72)
        self.assertGreater(_parity(offer).count, 60)

    def test_few_clients(self) -> None:
        self.assertFalse(self.is_parity(4000, [40] * 4))

    def test_one_client(self) -> None:
        self.assertIsNone(self.is_parity(4000, [40]))

    def test_one_that_lost_much_more_than_the_others(self) -> None:
        """What it lacks beyond them comes by TCP, and it makes use of what they get."""
        offer = self.offer(4000, [40] * 99 + [1800])
        assert offer is not None
        self.assertLess(offer.cost, 40 + 12 + 1760)
        self.assertLess(_parity(offer).count, 60)
        self.assertGreater(_parity(offer).count, 40)

    def test_losses_too_large_to_be_solved_for(self) -> None:
        self.assertFalse(self.is_parity(8000, [4000] * 4))

    def test_a_later_round_is_parity_or_nothing(self) -> None:
        """A client lacks more than it asks for, once it has had parity."""
        self.assertTrue(self.is_parity(4000, [2] * 100, loss=0.01))
        self.assertIsNone(self.is_parity(4000, [2] * 4, loss=0.01))
