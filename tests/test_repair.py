"""Coded repairs: what is combined, how it is told, and what a receiver makes of it."""

from __future__ import annotations

import random
import struct
from functools import reduce
from operator import xor

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.repair.planning import plan
from kollacast.repair.xor import combine
from kollacast.wire import recipes
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import JASMINE, KOLLACAST
from kollacast.wire.messages import BufferCtl
from kollacast.wire.structures import SEQ_LIMIT
from tests.vectors import PROPERTY

_ENGINE, _ = best_crc32c()
_CAPACITY = 40
_CODEC = KOLLACAST.codec(7, _ENGINE)

_WANTED = st.lists(st.sets(st.integers(0, 60), max_size=30), min_size=1, max_size=6)


class Plans(unittest.SynchronousTestCase):
    @PROPERTY
    @given(_WANTED, st.integers(2, 8))
    def test_every_client_can_decode_all_it_wants(
        self, wanted: list[set[int]], terms_limit: int
    ) -> None:
        combinations = plan(wanted, terms_limit)
        for terms in combinations:
            self.assertLessEqual(len(terms), terms_limit)
            for lacking in wanted:
                self.assertLessEqual(len(lacking.intersection(terms)), 1)
        named = [seq for terms in combinations for seq in terms]
        self.assertEqual(sorted(named), sorted(set().union(*wanted)))

    def test_losses_of_different_clients_are_mended_together(self) -> None:
        self.assertEqual(len(plan([{1, 5}, {2, 6}, {3, 7}], 32)), 2)

    def test_a_loss_common_to_all_is_sent_once(self) -> None:
        self.assertEqual(plan([{4}, {4}, {4}], 32), [[4]])

    def test_nobody_wants_anything(self) -> None:
        self.assertEqual(plan([], 32), [])
        self.assertEqual(plan([set(), set()], 32), [])

    def test_it_takes_little_more_than_the_worst_client_has_lost(self) -> None:
        """Independent losses of a buffer of 4300 packets, 1024 at a time as the server plans."""
        chance = random.Random(5)
        for clients, share, most in ((4, 0.05, 1.2), (4, 0.3, 1.1), (32, 0.05, 1.3)):
            lost = [[s for s in range(4300) if chance.random() < share] for _ in range(clients)]
            planned = [
                terms
                for start in range(0, 4300, 1024)
                for terms in plan(
                    [[s for s in seqs if start <= s < start + 1024] for seqs in lost], 32
                )
            ]
            told = recipes.pack(planned, 0, 1460)
            worst = max(map(len, lost))
            self.assertLess((len(planned) + 2 * len(told)) / worst, most, (clients, share))

    def test_no_packet_of_a_thousand_clients_is_left_out(self) -> None:
        chance = random.Random(6)
        lost = [{s for s in range(200) if chance.random() < 0.01} for _ in range(1000)]
        planned = plan(lost, 32)
        named = sorted(s for terms in planned for s in terms)
        self.assertEqual(named, sorted(set().union(*lost)))
        for terms in planned:
            self.assertLessEqual(max(len(seqs.intersection(terms)) for seqs in lost), 1)


class Combinations(unittest.SynchronousTestCase):
    def test_short_packets_count_as_padded(self) -> None:
        self.assertEqual(
            combine([memoryview(b"\x01\x02\x03\x04"), memoryview(b"\xf1\xf2")], 4),
            b"\xf0\xf0\x03\x04",
        )

    @PROPERTY
    @given(st.lists(st.binary(max_size=_CAPACITY), min_size=1, max_size=8))
    def test_it_is_the_xor_of_all(self, payloads: list[bytes]) -> None:
        columns = zip(*(payload.ljust(_CAPACITY, b"\0") for payload in payloads), strict=True)
        self.assertEqual(
            combine([memoryview(payload) for payload in payloads], _CAPACITY),
            bytes(reduce(xor, column) for column in columns),
        )


class Decoding(unittest.SynchronousTestCase):
    """A receiver of one buffer of ten packets, the last one short."""

    def setUp(self) -> None:
        image = random.Random(3).randbytes(10 * _CAPACITY - 11)
        self.source = PacketBuffer(_CAPACITY, 10)
        self.source.payload[: len(image)] = image
        self.ctl = self.source.announce(1, 100, len(image))
        self.intake = Intake(_CODEC, _CAPACITY)
        self.target = PacketBuffer(_CAPACITY, 10)
        self.target.init(self.ctl)
        self.intake.arm(self.target)

    def receive(self, *lost: int) -> None:
        for seq in range(100, 110):
            payload = self.source.get(seq)
            assert payload is not None
            if seq not in lost:
                self.intake.datagram(_CODEC.sealed(seq, [payload]) + payload)
        self.assertEqual(self.target.missing(), sorted(lost))

    def repair(self, combinations: list[list[int]], *, told: bool = True) -> None:
        if told:
            for number, packet in enumerate(recipes.pack(combinations, 0, _CAPACITY)):
                self.datagram(recipes.recipe_seq(number), packet)
        for number, terms in enumerate(combinations):
            held = [self.source.get(term) for term in terms]
            payload = combine([view for view in held if view is not None], _CAPACITY)
            self.datagram(recipes.combination_seq(number), payload)

    def datagram(self, seq: int, payload: bytes) -> None:
        self.intake.datagram(_CODEC.sealed(seq, [memoryview(payload)]) + payload)

    def whole(self) -> None:
        self.assertEqual(self.target.missing(), [])
        self.assertEqual(
            b"".join(self.target.views()), bytes(self.source.payload[: self.ctl.buffer_size])
        )

    def test_a_combination_mends_the_one_packet_that_is_lacking(self) -> None:
        self.receive(102)
        self.repair([[101, 102, 107]])
        self.whole()
        self.assertEqual(self.intake.counts.decoded, 1)

    def test_the_short_packet_at_the_end(self) -> None:
        self.receive(109)
        self.repair([[109, 100]])
        self.whole()

    def test_from_the_short_packet_at_the_end(self) -> None:
        self.receive(100)
        self.repair([[109, 100]])
        self.whole()

    def test_a_term_that_came_shorter_than_it_should(self) -> None:
        """What lay in its place before is no part of it."""
        self.receive(102, 107)
        slot = self.target.payloads[7]
        slot[:] = b"x" * len(slot)
        short = memoryview(b"short")
        self.datagram(107, bytes(short))
        self.datagram(recipes.recipe_seq(0), recipes.pack([[102, 107]], 0, _CAPACITY)[0])
        first = self.source.get(102)
        assert first is not None
        self.datagram(recipes.combination_seq(0), combine([first, short], _CAPACITY))
        self.assertEqual(self.target.get(102), first)

    def test_a_combination_of_one_packet(self) -> None:
        self.receive(100)
        self.repair([[100]])
        self.whole()

    def test_several_of_them(self) -> None:
        self.receive(100, 104, 109)
        self.repair([[100, 105], [104, 101], [108, 109], [102, 103]])
        self.whole()
        self.assertEqual(self.intake.counts.decoded, 3)

    def test_two_that_are_lacking_cannot_be_told_apart(self) -> None:
        self.receive(100, 104)
        self.repair([[100, 104]])
        self.assertEqual(self.target.missing(), [100, 104])
        self.assertEqual(self.intake.counts.decoded, 0)

    def test_without_its_recipe_a_combination_is_nothing(self) -> None:
        self.receive(100)
        self.repair([[100, 101]], told=False)
        self.assertEqual(self.target.missing(), [100])

    def test_what_came_meanwhile_is_not_decoded_again(self) -> None:
        self.receive(100)
        for number, packet in enumerate(recipes.pack([[100, 101]], 0, _CAPACITY)):
            self.datagram(recipes.recipe_seq(number), packet)
        self.target.put(100, self.source.payloads[0])
        self.repair([[100, 101]], told=False)
        self.whole()
        self.assertEqual(self.intake.counts.decoded, 0)

    def test_recipes_of_packets_that_are_elsewhere(self) -> None:
        self.receive(100)
        self.repair([[100, 5000], [101, 5000]])
        self.assertEqual(self.target.missing(), [100])

    @PROPERTY
    @given(
        st.lists(
            st.lists(
                st.sampled_from((0, 1, 2, 3, 7, 100, 101, 102, 109, 110, SEQ_LIMIT, 0xFFFF_FFFF)),
                max_size=12,
            ),
            max_size=5,
        )
    )
    def test_recipes_of_any_kind_break_nothing(self, told: list[list[int]]) -> None:
        """What comes of them may be wrong, as the sender of a valid sum is believed."""
        self.setUp()
        self.receive(102, 109)
        for number, words in enumerate(told):
            payload = struct.pack(f"!{len(words)}I", *words).ljust(_CAPACITY, b"\0")[:_CAPACITY]
            self.datagram(recipes.recipe_seq(number), payload)
            for combination in (*words, SEQ_LIMIT, SEQ_LIMIT + 1, 0xBFFF_FFFF):
                self.datagram(max(combination, SEQ_LIMIT), bytes(_CAPACITY))
        received = set(range(100, 110)).difference(self.target.missing())
        for seq in received - {102, 109}:
            self.assertEqual(self.target.get(seq), self.source.get(seq))

    def test_a_buffer_that_is_through_takes_no_repairs(self) -> None:
        """Its memory may hold another buffer by then."""
        self.receive(100)
        for number, packet in enumerate(recipes.pack([[100, 101]], 0, _CAPACITY)):
            self.datagram(recipes.recipe_seq(number), packet)
        self.intake.disarm(self.target)
        self.target.init(BufferCtl(2, 10 * _CAPACITY, 110, 10))
        self.intake.arm(self.target)
        self.repair([[100, 101]], told=False)
        self.assertEqual(self.target.missing_count, 10)

    @PROPERTY
    @given(st.lists(st.sets(st.integers(100, 109), max_size=6), min_size=1, max_size=4))
    def test_a_plan_for_several_clients_mends_each(self, lost: list[set[int]]) -> None:
        combinations = plan(lost, recipes.max_terms(_CAPACITY))
        for lacking in lost:
            self.setUp()
            self.receive(*lacking)
            self.repair(combinations)
            self.whole()

    def test_jasmine_has_no_coded_packets(self) -> None:
        """Its sum does not cover the seq: damage there must not make a recipe of an image."""
        codec = JASMINE.codec(0, _ENGINE)
        intake = Intake(codec, _CAPACITY, coded=False)
        intake.arm(self.target)
        recipe = recipes.pack([[100, 101]], 0, _CAPACITY)[0]
        self.target.put(101, bytes(_CAPACITY))
        for seq, payload in ((recipes.recipe_seq(0), recipe), (SEQ_LIMIT, bytes(_CAPACITY))):
            intake.datagram(codec.sealed(seq, [memoryview(payload)]) + payload)
        self.assertEqual(self.target.missing_count, 9)
        self.assertEqual(intake.counts.repeated, 2)
