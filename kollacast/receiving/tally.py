"""What has come of an image, and how, over all connections of a run."""

from __future__ import annotations

from dataclasses import dataclass

from kollacast.packets.intake import IntakeCounts


@dataclass(slots=True)
class Tally(IntakeCounts):
    """Packets by how they came or what became of them, those of the intake among them."""

    retransmitted: int = 0
    fetched: int = 0
    pieces_wrong: int = 0  #: of complete buffers, that were not the server's
    control_wrong: int = 0  #: packets that say they are the server's, by their signatures
    dropped: int = 0  #: datagrams for which the kernel had no room
    held_bytes: int | None = None  #: for so many it had; None as long as no group is joined
    wanted_bytes: int | None = None  #: and so many were wanted

    @property
    def repaired(self) -> int:
        """Packets that came again, by TCP or out of a coded repair."""
        return self.retransmitted + self.decoded
