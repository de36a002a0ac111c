"""Proofs that a peer knows a shared secret, which itself is never sent.

HMAC-SHA256 (RFC 2104) over who proves it, fresh numbers of both sides, and the session.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

#: What a greeting calls it.
METHOD = "hmac-sha256"


@dataclass(frozen=True)
class Challenge:
    """What one connection's proofs are about; ``server_nonce`` and ``client_nonce`` are fresh."""

    session: str
    server_nonce: str
    client_nonce: str

    def proof(self, secret: bytes, who: str) -> bytes:
        """32 bytes by which ``who``, "server" or "client", proves to know ``secret``."""
        text = "|".join((who, self.server_nonce, self.client_nonce, self.session))
        return hmac.new(secret, text.encode(), hashlib.sha256).digest()

    def holds(self, secret: bytes, who: str, proof: bytes) -> bool:
        """Whether ``proof`` is that of ``who``; takes the same time for any wrong one."""
        return hmac.compare_digest(self.proof(secret, who), proof)
