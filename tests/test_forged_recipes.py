"""Recipes that no server has made cost a client a bounded time, and bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.repair import xor
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.messages import BufferCtl
from kollacast.wire.recipes import COMBINATION_BASE, RECIPE_BASE, Recipe

_CAPACITY = 1460
_PACKETS = 900
_CODEC = KOLLACAST.codec(7, best_crc32c()[0])


class ForgedRecipeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.intake = Intake(_CODEC, _CAPACITY)
        self.looked_at = 0
        lacking = PacketBuffer.lacking

        def counted(buffer: PacketBuffer, seqs: Sequence[int]) -> list[int]:
            self.looked_at += len(seqs)
            return lacking(buffer, seqs)

        self.patch(PacketBuffer, "lacking", counted)
        self.arm(1)

    def arm(self, number: int) -> None:
        """The next buffer, of which every third packet has come."""
        base = _PACKETS * (number - 1)
        buffer = PacketBuffer(_CAPACITY, _PACKETS)
        buffer.init(BufferCtl(number, _PACKETS * _CAPACITY, base, _PACKETS))
        self.intake.arm(buffer)
        for seq in range(base, base + _PACKETS, 3):
            buffer.put(seq, bytes(_CAPACITY))

    def forge(self, count: int, combinations: int, terms: int) -> None:
        """So many recipes, of combinations that lack one packet each."""
        random = Random(count)
        known = range(0, _PACKETS, 3)
        for number in range(count):
            made = tuple(
                (random.choice(known) + 1, *random.choices(known, k=terms - 1))
                for _ in range(combinations)
            )
            first = COMBINATION_BASE + number * combinations
            payload = Recipe(first, made).encode(_CAPACITY)[:_CAPACITY]
            header = _CODEC.sealed(RECIPE_BASE + number, [memoryview(payload)])
            self.intake.datagram(header + payload)

    def test_more_terms_than_any_server_names(self) -> None:
        self.forge(50, 1, 33)
        self.assertEqual(self.looked_at, 0)

    def test_however_many_come(self) -> None:
        """Each buffer is worth the time that its own recipes would take, and no more."""
        self.forge(1000, 11, 32)
        first = self.looked_at
        self.assertLessEqual(first, 2 * xor._BYTES_A_BUFFER // 4)
        self.forge(1000, 11, 32)
        self.assertEqual(self.looked_at, first)
        self.arm(2)
        self.forge(1000, 11, 32)
        self.assertLessEqual(self.looked_at, first + xor._BYTES_A_BUFFER // 4)
        for number in range(3, 60):
            self.arm(number)
        before = self.looked_at
        self.forge(1000, 11, 32)
        self.assertLessEqual(self.looked_at, before + xor._MOST_LEFT // 4)

    def test_what_is_kept_of_them(self) -> None:
        for number in range(2, 60):
            self.arm(number)
            self.forge(100, 100, 2)
        decoder = self.intake._decoder
        assert decoder is not None
        self.assertLessEqual(len(decoder._xor._recipes), xor._MAX_RECIPES)
