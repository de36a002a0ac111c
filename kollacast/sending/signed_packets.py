"""Packets beside the image's, for all clients: signed, urgent, one at a time."""

from __future__ import annotations

from kollacast.events.guard import Guard
from kollacast.packets.buffer import PacketBuffer
from kollacast.transport.sender import MulticastProtocol
from kollacast.wire.signature import Signer
from kollacast.wire.structures import SIGNATURE_SIZE


class SignedPackets:
    """Multicasts packets of up to ``capacity`` bytes, without a signature where there is no signer.

    Those of the same moment leave in their order, and before any part of the image that waits.
    """

    def __init__(
        self, capacity: int, signer: Signer | None, sender: MulticastProtocol, guard: Guard
    ) -> None:
        #: Bytes of data that one packet carries.
        self.room = capacity - (0 if signer is None else SIGNATURE_SIZE)
        self._capacity = capacity
        self._signer = signer
        self._sender = sender
        self._guard = guard

    def send(self, seq: int, data: bytes) -> None:
        """Multicast a packet with this seq; nobody is told when it is lost."""
        if self._signer is not None:
            data = self._signer.sign(seq, data)
        packet = PacketBuffer(self._capacity, 1)
        packet.payload[: len(data)] = data
        packet.announce(0, seq, len(data))
        self._sender.multicast(packet, urgent=True, counts=False).addErrback(self._guard.failed)
