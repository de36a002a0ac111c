"""Recipes: what coded packets are made of, as bytes, and the seqs that are not the image's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from kollacast.wire import recipes
from kollacast.wire.recipes import Recipe
from kollacast.wire.structures import SEQ_LIMIT
from tests.vectors import PROPERTY


class Recipes(unittest.SynchronousTestCase):
    def test_the_bytes_of_a_recipe(self) -> None:
        self.assertEqual(
            recipes.pack([[5, 9], [7]], 3, 40),
            [
                bytes.fromhex("80000003 00000002 00000005 00000009 00000001 00000007").ljust(
                    40, b"\0"
                )
            ],
        )

    def test_seqs_are_reserved_ones_and_go_round(self) -> None:
        self.assertEqual(recipes.combination_seq(0), SEQ_LIMIT)
        self.assertEqual(recipes.combination_seq(recipes.SEQ_SPAN + 2), 0x8000_0002)
        self.assertEqual(recipes.recipe_seq(1), 0xC000_0001)
        self.assertEqual(recipes.recipe_seq(recipes.SEQ_SPAN), 0xC000_0000)
        self.assertEqual(recipes.control_seq(0), 0xE000_0000)
        for base, seq in ((0xE000_0000, recipes.control_seq), (0xF000_0000, recipes.pieces_seq)):
            self.assertEqual(seq(0), base)
            self.assertEqual(seq(0x0FFF_FFFF), base + 0x0FFF_FFFF)
            self.assertEqual(seq(0x1000_0000), base)

    @PROPERTY
    @given(st.integers(0, 1 << 64))
    def test_no_seq_is_of_two_kinds(self, number: int) -> None:
        seqs = [
            SEQ_LIMIT,
            recipes.combination_seq(number),
            recipes.RECIPE_BASE,
            recipes.recipe_seq(number),
            recipes.CONTROL_BASE,
            recipes.control_seq(number),
            recipes.PIECES_BASE,
            recipes.pieces_seq(number),
            0xFFFF_FFFF,
        ]
        self.assertEqual(seqs, sorted(seqs))
        self.assertEqual(len({seqs[1], seqs[3], seqs[5], seqs[7]}), 4)

    @PROPERTY
    @given(
        st.integers(16, 200) | st.just(1460),
        st.data(),
        st.integers(0, 2 * recipes.SEQ_SPAN),
    )
    def test_what_is_told_is_understood(
        self, capacity: int, data: st.DataObject, first: int
    ) -> None:
        terms = st.lists(
            st.integers(0, SEQ_LIMIT - 1), min_size=1, max_size=recipes.max_terms(capacity)
        )
        combinations = data.draw(st.lists(terms, max_size=20))
        found: dict[int, tuple[int, ...]] = {}
        for packet in recipes.pack(combinations, first, capacity):
            self.assertEqual(len(packet), capacity)
            found.update(Recipe.decode(packet).named())
        expected = {
            recipes.combination_seq(first + number): tuple(terms)
            for number, terms in enumerate(combinations)
        }
        self.assertEqual(found, expected)

    def test_the_smallest_packets_that_can_name_a_combination(self) -> None:
        self.assertEqual([recipes.max_terms(capacity) for capacity in (16, 20, 1460)], [1, 2, 32])
        self.assertLess(recipes.max_terms(12), 1)

    def test_a_recipe_is_read_as_it_was_written(self) -> None:
        recipe = Recipe(0x8000_0003, ((5, 9), (7,)))
        self.assertEqual(Recipe.decode(recipe.encode(40)), recipe)

    @PROPERTY
    @given(st.binary(max_size=100))
    def test_nonsense_tells_little_and_breaks_nothing(self, data: bytes) -> None:
        named = sum(map(len, Recipe.decode(data).combinations))
        self.assertLessEqual(4 * named, len(data))
