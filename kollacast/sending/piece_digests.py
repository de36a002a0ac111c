"""Tells clients the digests of all pieces of a buffer: by multicast, and by TCP to who asks."""

from __future__ import annotations

from collections.abc import Sequence

from kollacast.sending.signed_packets import SignedPackets
from kollacast.wire.dialect import Dialect
from kollacast.wire.pieces import in_parts
from kollacast.wire.recipes import pieces_seq
from kollacast.wire.structures import WireError


class PieceDigests:
    """Those of the buffers that may still concern somebody, of one stream."""

    def __init__(self, dialect: Dialect, packets: SignedPackets) -> None:
        self._dialect = dialect
        self._packets = packets
        self._count = 0
        self._held: dict[int, Sequence[bytes]] = {}

    def hold(self, buffer_id: int, digests: Sequence[bytes]) -> None:
        """A buffer is announced, and has these."""
        self._held[buffer_id] = digests

    def tell(self, buffer_id: int) -> None:
        """Tell all clients. Packets may get lost, and are not repeated by themselves."""
        for part in in_parts(buffer_id, self._held[buffer_id], self._packets.room):
            self._packets.send(pieces_seq(self._count), part.data(self._dialect))
            self._count += 1

    def check(self, buffer_id: int) -> None:
        """Raises WireError where no digests are held of a buffer that somebody asks for."""
        if not self._held.get(buffer_id):
            raise WireError(f"the pieces of buffer {buffer_id}, which has none here")

    def answer(self, buffer_id: int) -> bytes:
        """What one client is told by TCP; nothing once the buffer is with all."""
        parts = in_parts(buffer_id, self._held.get(buffer_id, ()))
        return b"".join([part.encode(self._dialect) for part in parts])

    def retire(self, buffer_id: int) -> None:
        """Every client has this buffer."""
        self._held.pop(buffer_id, None)
