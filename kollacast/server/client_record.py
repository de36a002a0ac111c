"""What the server's report says of one client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ClientRecord:
    """One client, over all of its connections.

    ``fetching`` says why it is that, and not in step with the others; None where it is in step.
    """

    name: str
    address: str
    verified: bool = False
    reason: str | None = None
    fetching: str | None = None
    connections: int = 1
    packets_multicast: int | None = None
    packets_repaired: int = 0
    packets_fetched: int = 0
    seconds: float | None = None
