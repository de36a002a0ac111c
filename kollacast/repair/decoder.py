"""What a client makes of coded packets, whichever way they are made."""

from __future__ import annotations

from kollacast.repair.parity import ParityDecoder
from kollacast.repair.scheme import Held, Mended
from kollacast.repair.xor import XorDecoder
from kollacast.wire.recipes import RECIPE_BASE, SEQ_SPAN, is_parity


class Decoder:
    """A client's side, for a connection; :attr:`parity` is told what its packets are of."""

    def __init__(self, capacity: int, held: Held) -> None:
        self.parity = ParityDecoder(capacity)
        self._xor = XorDecoder(capacity, held)

    def take(self, seq: int, payload: memoryview) -> Mended | None:
        """A packet with a reserved seq has come, intact: what that mends, if anything."""
        if is_parity(seq):
            self.parity.take(seq, payload)
            return None
        return self._xor.take(seq, payload) if seq < RECIPE_BASE + SEQ_SPAN else None

    def expect(self) -> None:
        """Another buffer is awaited."""
        self._xor.expect()

    def forget(self, seqs: range) -> None:
        """These packets are not awaited any more."""
        self._xor.forget(seqs)
        self.parity.forget(seqs)
