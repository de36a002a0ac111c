"""Packet checksums: CRC-32C in whichever engine is fastest, and jasmine's sum.

crcmod's ``crc-32c`` defines the CRC (Castagnoli's polynomial, the one of
iSCSI, RFC 3720, and SCTP, RFC 4960).  A hardware engine from the ``crc32c``
package takes its place where it is installed and agrees with crcmod on a
few vectors, which :func:`best_crc32c` checks each time a process starts.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import xor
from typing import Protocol

import crcmod.predefined

#: ``engine(data, value)``: the CRC-32C of data that continues a stream whose
#: CRC so far is ``value``.
Engine = Callable[[memoryview, int], int]

_VECTORS = (b"", b"\x00", b"123456789", bytes(range(256)) * 6)
_SEEDS = (0, 1, 0xDEADBEEF, 0xFFFFFFFF)


class Checksum(Protocol):
    """How one session's packets are summed, a batch at a time."""

    def batch(self, seqs: Iterable[int], payloads: Sequence[memoryview]) -> tuple[int, ...]:
        """The checksum of each payload; as many as the shorter argument has."""


@dataclass(frozen=True)
class Crc32c:
    """CRC-32C whose initial value is ``salt`` XOR the packet's seq.

    One number so rejects damage, a packet that carries another's seq, and a
    packet of another session.
    """

    salt: int
    engine: Engine

    def batch(self, seqs: Iterable[int], payloads: Sequence[memoryview]) -> tuple[int, ...]:
        return tuple(map(self.engine, payloads, map(xor, seqs, repeat(self.salt))))


@dataclass(frozen=True)
class WordSum:
    """The sum of little-endian 32-bit words that jasmine carries as its CRC."""

    def batch(self, seqs: Iterable[int], payloads: Sequence[memoryview]) -> tuple[int, ...]:
        return tuple(word_sum(payload) for _, payload in zip(seqs, payloads, strict=False))


def word_sum(data: memoryview | bytes) -> int:
    """The sum modulo 2**32 of the words of ``data``, the last zero-padded."""
    whole = len(data) // 4 * 4
    total = sum(struct.unpack(f"<{whole // 4}I", data[:whole]))
    return (total + int.from_bytes(data[whole:], "little")) & 0xFFFFFFFF


def crcmod_engine() -> Engine:
    """The engine that defines the CRC."""
    function: Engine = crcmod.predefined.mkCrcFun("crc-32c")
    return function


def crcmod_is_compiled() -> bool:
    """Whether crcmod found its C extension, 100 times faster than without."""
    try:
        importlib.import_module("crcmod._crcfunext")
    except ImportError:
        return False
    return True


def hardware_engine() -> Engine | None:
    """The ``crc32c`` package's engine, or None where it is not installed."""
    try:
        engine: Engine = importlib.import_module("crc32c").crc32c
    except (ImportError, AttributeError):
        return None
    return engine


def agrees_with_crcmod(engine: Engine) -> bool:
    """Whether ``engine`` gives crcmod's result for every probe, and no exception."""
    reference = crcmod_engine()
    try:
        return all(
            engine(memoryview(data), seed) == reference(memoryview(data), seed)
            for data in _VECTORS
            for seed in _SEEDS
        )
    except Exception:
        # An old release that takes no memoryview, say.
        return False


def best_crc32c() -> tuple[Engine, str | None]:
    """The fastest engine that agrees with crcmod, and a warning or None."""
    engine = hardware_engine()
    if engine is not None:
        if agrees_with_crcmod(engine):
            return engine, None
        warning = "the crc32c package disagrees with crcmod and is not used: reinstall it"
    elif crcmod_is_compiled():
        return crcmod_engine(), None
    else:
        warning = (
            "checksums run in pure Python, about 100 times slower than need be: pip install crc32c"
        )
    return crcmod_engine(), warning
