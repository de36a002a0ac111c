"""Signatures by which clients know that a control packet is the server's: Ed25519 (RFC 8032).

The key is made for one run.  What is signed is the packet's seq, in network order, and its data.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kollacast.wire.structures import SIGNATURE_SIZE, WireError


def _signed(seq: int, data: bytes) -> bytes:
    return struct.pack("!I", seq) + data


class Signer:
    """The server's side, with a new key."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        #: By which clients verify, 32 bytes.
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, seq: int, data: bytes) -> bytes:
        """``data`` with its signature behind it."""
        return data + self._key.sign(_signed(seq, data))


class Verifier:
    """A client's side, which knows the server's ``public`` key."""

    def __init__(self, public: bytes) -> None:
        """Raises WireError where this is no key."""
        try:
            self._key = Ed25519PublicKey.from_public_bytes(public)
        except ValueError:
            raise WireError("the server's key is none") from None

    def is_signed(self, seq: int, data: bytes) -> bool:
        """Whether ``data`` is what the server has signed, and its signature behind it."""
        try:
            self._key.verify(data[-SIGNATURE_SIZE:], _signed(seq, data[:-SIGNATURE_SIZE]))
        except InvalidSignature:
            return False
        return True
