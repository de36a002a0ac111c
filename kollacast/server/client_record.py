"""What the server's report says of one client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ClientRecord:
    """One client, over all of its connections.

    ``fetching`` says why the client is out of the barrier and fetches the image
    by itself; None for one that is in step with the others.
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
