"""How one packet mends losses of several hosts: an interface, a file for each way, the choice."""

from __future__ import annotations

from kollacast.repair.scheme import Decoder, Encoder, Scheme
from kollacast.repair.xor import XOR

__all__ = ["SCHEME", "Decoder", "Encoder"]

#: The way that both sides mean who have agreed on ``coding``.
SCHEME: Scheme = XOR
