"""How one packet mends losses of several hosts: an interface, a file for each way, the choice."""

from __future__ import annotations

from kollacast.repair.choice import Choice, prepare
from kollacast.repair.decoder import Decoder

__all__ = ["Choice", "Decoder", "prepare"]
