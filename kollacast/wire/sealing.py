"""Packets that nobody outside a session can read or make: each is sealed on its own.

The cipher is AES-128-GCM (NIST SP 800-38D). A packet's nonce is the session's salt and its seq, and
the key is made for one session, so that no two packets have both in common: a seq has one content
for ever. What is sealed has `SEAL_SIZE` bytes more.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Sequence

from kollacast.wire.structures import SEQ_LIMIT

#: What it is called in a greeting.
SEAL_METHOD = "aes-128-gcm"
#: Bytes of the tag, with which a sealed packet ends.
SEAL_SIZE = 16
#: Bytes of a key.
SEAL_KEY_SIZE = 16
#: Of the spans modulo which packets are counted the least: the others are multiples of it.
_LEAST_SPAN = 0x1000_0000


class SealError(Exception):
    """A session has sealed all packets that its key is good for."""


def new_key() -> bytes:
    """A key for one session."""
    return secrets.token_bytes(SEAL_KEY_SIZE)


class Seal:
    """Seals and opens the packets of one session by its ``key`` and ``salt`` (32 bits)."""

    def __init__(self, key: bytes, salt: int) -> None:
        # It takes its time to load, and most sessions need none.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        cipher = AESGCM(key)
        self._encrypt = cipher.encrypt_into
        self._decrypt = cipher.decrypt_into
        self._invalid = InvalidTag
        self._salt = struct.pack("!Q", salt)
        # Of each part of the seqs that are counted modulo a span, the last one.
        self._last: dict[int, int] = {}

    def seal(self, seq: int, payloads: Sequence[memoryview], sealed: Sequence[memoryview]) -> None:
        """Seal ``payloads``, whose seqs count up from ``seq``, each into one of ``sealed``.

        Those are `SEAL_SIZE` bytes longer. Raises SealError where seqs begin anew.
        """
        if seq >= SEQ_LIMIT:
            part = seq // _LEAST_SPAN
            if seq + _LEAST_SPAN // 2 < self._last.get(part, 0):
                raise SealError("the key is used up: packets of one kind have had all numbers")
            self._last[part] = seq
        nonces = self._nonces(range(seq, seq + len(payloads)))
        for nonce, payload, out in zip(nonces, payloads, sealed, strict=True):
            self._encrypt(nonce, payload, None, out)

    def open(
        self,
        seqs: Sequence[int],
        intact: bytes,
        sealed: Sequence[memoryview],
        payloads: Sequence[memoryview],
    ) -> bytes:
        """Open each of ``sealed`` that is ``intact`` (1 or 0 each) into one of ``payloads``.

        Those are `SEAL_SIZE` bytes shorter. Returns likewise which have come open: nobody else has
        made those.
        """
        is_open = bytearray(intact)
        decrypt, invalid = self._decrypt, self._invalid
        nonces = self._nonces(seqs)
        for index, (nonce, data, out) in enumerate(zip(nonces, sealed, payloads, strict=True)):
            if is_open[index]:
                try:
                    decrypt(nonce, data, None, out)
                except invalid:
                    is_open[index] = 0
        return bytes(is_open)

    def _nonces(self, seqs: Iterable[int]) -> list[bytes]:
        salt = self._salt
        return [salt + seq.to_bytes(4, "big") for seq in seqs]
