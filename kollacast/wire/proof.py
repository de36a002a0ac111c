"""Proofs that a peer knows a shared secret, which itself is never sent.

HMAC-SHA256 (RFC 2104) over who proves it, fresh numbers of both sides, and what only the two ends
of this very connection have in common: so it proves all that is said on it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

#: What a challenge calls it.
METHOD = "hmac-sha256"


@dataclass(frozen=True)
class Agreement:
    """What one connection's proofs are about.

    ``server_nonce`` and ``client_nonce`` are fresh, ``binding`` is the connection's own: its
    exporter (RFC 9266).
    """

    server_nonce: str
    client_nonce: str
    binding: bytes

    def proof(self, secret: bytes, who: str) -> bytes:
        """32 bytes by which ``who``, "server" or "client", proves to know ``secret``."""
        text = "|".join((who, self.server_nonce, self.client_nonce, self.binding.hex()))
        return hmac.new(secret, text.encode(), hashlib.sha256).digest()

    def holds(self, secret: bytes, who: str, proof: str) -> bool:
        """Whether ``proof``, in hexadecimal digits, is that of ``who``.

        It takes the same time for any wrong one.
        """
        return hmac.compare_digest(self.proof(secret, who).hex(), proof)
