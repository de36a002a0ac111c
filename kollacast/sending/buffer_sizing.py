"""How many packets the next buffer gets: enough to be worth its messages, soon through.

A buffer is where losses are reported and repaired, so it should leave within
a fraction of a second whatever the rate.  The first ones are small, for they
go out before anything is known of the network, and each may be twice as large
as the one before.  Toward the end they become small again: what everyone
waits for, once all has been sent, is that the last one is mended and kept.
"""

from __future__ import annotations

#: Seconds in which a buffer should leave.
_DURATION_S = 0.15
#: Payload bytes of the first buffer, and of the smallest one.
_FIRST_BYTES = 512 * 1024
#: Payload bytes a client: 200 us at 1 Gbit/s, more than its answers cost the server.
_BYTES_A_CLIENT = 25_000


class BufferSizing:
    """Sizes for packets of ``capacity`` payload bytes, ``max_packets`` at the most.

    The image is of ``size`` bytes, None where nobody knows.  A ``fixed`` size is
    always the largest.
    """

    def __init__(
        self,
        capacity: int,
        max_packets: int,
        clients: int,
        *,
        size: int | None = None,
        fixed: bool = False,
    ) -> None:
        self._capacity = capacity
        self._max_packets = max_packets
        least = max(_FIRST_BYTES, _BYTES_A_CLIENT * clients) // capacity
        self._least = max_packets if fixed else min(max(least, 1), max_packets)
        self._last = self._least // 2
        self._left = float("inf") if size is None else -(-size // capacity)
        self._bps = float("inf")

    def sent(self, bps: float) -> None:
        """A buffer has left at ``bps`` bits a second."""
        self._bps = bps

    def next(self) -> int:
        """Packets of the next buffer."""
        wanted = min(self._bps * _DURATION_S / 8 / self._capacity, self._left / 2)
        self._last = int(max(min(wanted, 2 * self._last, self._max_packets), self._least))
        self._left -= self._last
        return self._last
