"""Every checksum engine against the one that defines the CRC, and jasmine's sum."""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

import kollacast.wire
from kollacast.wire import checksum
from kollacast.wire.checksum import Crc32c, Engine, WordSum, word_sum
from tests.vectors import HEADERS, IMAGE, PROPERTY

#: RFC 3720, B.4, and the check value of the CRC catalogues.
_KNOWN = (
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
)


@contextlib.contextmanager
def _process_without(*missing: str, **instead: Any) -> Iterator[types.ModuleType]:
    """The checksum module as a process has it that lacks the ``missing`` modules.

    ``instead`` are modules that it finds under these names.
    """
    with mock.patch.dict(sys.modules), mock.patch.object(kollacast.wire, "checksum"):
        for name in [name for name in sys.modules if name.partition(".")[0] == "crcmod"]:
            del sys.modules[name]
        del sys.modules[checksum.__name__]
        sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]
        sys.modules.update(instead)
        yield importlib.import_module(checksum.__name__)


def _engine_module(function: Callable[..., int]) -> types.ModuleType:
    module = types.ModuleType("crc32c")
    module.crc32c = function  # type: ignore[attr-defined]
    return module


class Engines(unittest.SynchronousTestCase):
    """The hardware engine, compiled crcmod and crcmod in Python, each by the same measure."""

    def prove(self, engine: Engine) -> None:
        for data, crc in _KNOWN:
            self.assertEqual(engine(memoryview(data), 0), crc)
        reference = checksum.crcmod_engine()
        rng = random.Random(1)
        image = memoryview(rng.randbytes(4096))
        for length in (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 63, 64, 65, 255, 1460, 4096):
            for seed in (0, 1, 0x80000000, 0xFFFFFFFF, rng.getrandbits(32)):
                start = rng.randrange(len(image) - length + 1)
                piece = image[start : start + length]
                self.assertEqual(engine(piece, seed), reference(piece, seed), (length, seed))
        # The CRC of a whole continues the one of its beginning.
        self.assertEqual(engine(image[100:], engine(image[:100], 7)), engine(image, 7))

    def test_the_hardware_engine(self) -> None:
        engine = checksum.hardware_engine()
        assert engine is not None
        self.prove(engine)
        self.assertTrue(checksum.agrees_with_crcmod(engine))

    def test_crcmod_as_it_is_installed(self) -> None:
        self.prove(checksum.crcmod_engine())

    def test_crcmod_in_pure_python(self) -> None:
        with _process_without("crcmod._crcfunext") as fresh:
            self.assertFalse(fresh.crcmod_is_compiled())
            self.assertIn("crcmod._crcfunpy", sys.modules)
            engine = fresh.crcmod_engine()
        self.prove(engine)

    def test_the_engine_that_is_used(self) -> None:
        engine, _ = checksum.best_crc32c()
        self.prove(engine)


class Choice(unittest.SynchronousTestCase):
    """Which engine a process takes, and what it says about it."""

    def test_hardware_comes_first_and_in_silence(self) -> None:
        engine, warning = checksum.best_crc32c()
        self.assertIs(engine, checksum.hardware_engine())
        self.assertIsNone(warning)

    def test_compiled_crcmod_is_good_enough(self) -> None:
        compiled = types.ModuleType("crcmod._crcfunext")
        compiled.__dict__.update(vars(importlib.import_module("crcmod._crcfunpy")))
        with _process_without("crc32c", **{"crcmod._crcfunext": compiled}) as fresh:
            engine, warning = fresh.best_crc32c()
            self.assertTrue(fresh.agrees_with_crcmod(engine))
        self.assertIsNone(warning)

    def test_pure_python_alone_is_told_with_its_remedy(self) -> None:
        with _process_without("crc32c", "crcmod._crcfunext") as fresh:
            engine, warning = fresh.best_crc32c()
        self.assertEqual(engine(memoryview(b"123456789"), 0), 0xE3069283)
        assert warning is not None
        self.assertIn("pure Python", warning)
        self.assertIn("pip install crc32c", warning)
        self.assertTrue(warning.isprintable())

    def test_an_engine_that_lies_is_not_used(self) -> None:
        def honest_for_short_pieces(data: memoryview, value: int = 0) -> int:
            return checksum.crcmod_engine()(data, value) ^ (len(data) > 1000)

        def deaf_to_the_seed(data: memoryview, value: int = 0) -> int:
            return checksum.crcmod_engine()(data, 0)

        def no_views(data: memoryview, value: int = 0) -> int:
            raise TypeError("a bytes-like object is required")

        for liar in (honest_for_short_pieces, deaf_to_the_seed, no_views):
            with mock.patch.dict(sys.modules, {"crc32c": _engine_module(liar)}):
                engine, warning = checksum.best_crc32c()
            self.assertIsNot(engine, liar)
            self.assertEqual(engine(memoryview(b"123456789"), 0), 0xE3069283)
            assert warning is not None
            self.assertIn("crc32c", warning)
            self.assertIn("reinstall", warning)

    def test_another_package_of_that_name_is_not_used(self) -> None:
        with mock.patch.dict(sys.modules, {"crc32c": types.ModuleType("crc32c")}):
            engine, _ = checksum.best_crc32c()
        self.assertEqual(engine(memoryview(b"123456789"), 0), 0xE3069283)


class SeededCrc(unittest.SynchronousTestCase):
    """One number rejects damage, the wrong slot and the wrong session."""

    data = memoryview(IMAGE[:1460])
    salt = 0x12345678

    def crc(self, seq: int, data: memoryview, salt: int = salt) -> int:
        (value,) = Crc32c(salt, checksum.crcmod_engine()).batch((seq,), (data,))
        return value

    def test_it_starts_from_the_salt_xor_the_seq(self) -> None:
        reference = checksum.crcmod_engine()
        self.assertEqual(self.crc(5, self.data), reference(self.data, self.salt ^ 5))
        self.assertEqual(self.crc(self.salt, memoryview(b"123456789")), 0xE3069283)

    def test_a_batch_is_its_packets_one_by_one(self) -> None:
        payloads = [self.data[start : start + 100] for start in range(0, 1460, 100)]
        crcs = Crc32c(self.salt, checksum.best_crc32c()[0]).batch(range(7, 100), payloads)
        self.assertEqual(crcs, tuple(self.crc(7 + i, p) for i, p in enumerate(payloads)))

    def test_the_wrong_slot_the_wrong_session_and_damage_differ(self) -> None:
        right = self.crc(5, self.data)
        self.assertNotEqual(self.crc(6, self.data), right)
        self.assertNotEqual(self.crc(5, self.data, self.salt + 1), right)
        for index in (0, 700, 1459):
            damaged = bytearray(self.data)
            damaged[index] ^= 1
            self.assertNotEqual(self.crc(5, memoryview(damaged)), right)
        self.assertNotEqual(self.crc(5, self.data[:-1]), right)

    @PROPERTY
    @given(
        st.binary(min_size=1, max_size=64),
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 0x7FFFFFFF),
        st.integers(0, 0x7FFFFFFF),
    )
    def test_no_two_slots_share_a_crc(self, data: bytes, salt: int, one: int, other: int) -> None:
        crcs = Crc32c(salt, checksum.best_crc32c()[0]).batch((one, other), [memoryview(data)] * 2)
        self.assertEqual(crcs[0] == crcs[1], one == other)


class JasmineSum(unittest.SynchronousTestCase):
    """The sum of little-endian words, modulo 2**32."""

    def test_the_recorded_packets(self) -> None:
        for seq, header in enumerate(HEADERS):
            payload = memoryview(IMAGE[1460 * seq : 1460 * (seq + 1)])
            crc = int.from_bytes(header[4:8], "little")
            self.assertEqual(word_sum(payload), crc)
            self.assertEqual(WordSum().batch((seq,), (payload,)), (crc,))

    def test_the_last_word_is_padded_with_zero_bytes(self) -> None:
        for data, total in (
            (b"", 0),
            (b"\x01", 1),
            (b"\x01\x02", 0x0201),
            (b"\x01\x02\x03", 0x030201),
            (b"\x01\x02\x03\x04", 0x04030201),
            (b"\x01\x02\x03\x04\x05", 0x04030206),
        ):
            self.assertEqual(word_sum(data), total, data)

    def test_it_wraps(self) -> None:
        self.assertEqual(word_sum(b"\xff\xff\xff\xff\x02\x00\x00\x00"), 1)
        self.assertEqual(word_sum(b"\xff\xff\xff\xff\x01"), 0)
        self.assertEqual(word_sum(b"\xff" * 65536), (16384 * 0xFFFFFFFF) & 0xFFFFFFFF)
