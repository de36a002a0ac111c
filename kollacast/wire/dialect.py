"""The two dialects of the protocol, each one a value.

Code above the wire never asks which dialect it has: what differs is either
packed and parsed here or is a field of :class:`Dialect`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from kollacast.wire.checksum import Crc32c, Engine, WordSum
from kollacast.wire.packets import PacketCodec
from kollacast.wire.structures import PACKET_HEADER_SIZE, BufferCtl, Tag


@dataclass(frozen=True)
class Dialect:
    """How one kind of peer speaks.

    ``byte_order`` is a struct prefix; ``tagged`` says whether every message
    begins with its tag; ``greets`` whether both sides introduce themselves in
    JSON; ``proves`` whether a digest and reports follow the last buffer;
    ``fetches`` whether a client may read the image by itself, outside the barrier;
    ``descending`` whether a buffer is multicast from its last packet to its
    first; ``answers_unheld`` whether a request for a packet that the server
    does not hold is answered with an empty packet instead of the door.
    ``max_buffer_packets`` and ``max_window`` bound one buffer and the buffers
    in flight; ``max_announced`` is the most packets of a buffer that every
    client takes, ``max_mtu`` likewise.  ``ready_wait_s`` is for how many seconds
    a client of any make waits behind its READY for a datagram or SENT.
    """

    name: str
    byte_order: str
    tagged: bool
    greets: bool
    proves: bool
    fetches: bool
    descending: bool
    answers_unheld: bool
    max_buffer_packets: int
    max_announced: int
    max_window: int
    max_mtu: int
    ready_wait_s: float
    default_group: str

    def codec(self, salt: int, engine: Engine) -> PacketCodec:
        """The packet codec of a session with this ``salt``."""
        return PacketCodec(self.byte_order, Crc32c(salt, engine) if self.greets else WordSum())

    def _tag(self, tag: Tag) -> bytes:
        return bytes((tag,)) if self.tagged else b""

    # From the server.

    def buffer(self, ctl: BufferCtl) -> bytes:
        """The announcement of a buffer."""
        return self._tag(Tag.BUFFER) + struct.pack(
            self.byte_order + "4I",
            ctl.buffer_id,
            ctl.buffer_size,
            ctl.packet_id_base,
            ctl.pkt_count,
        )

    def repaired(self, buffer_id: int) -> bytes:
        """The coded repairs of a buffer have been multicast."""
        return struct.pack("!BI", Tag.REPAIRED, buffer_id)

    def packets(
        self, headers: memoryview, slots: Sequence[int], payloads: Sequence[memoryview]
    ) -> bytes:
        """Retransmissions: the packets of these ``slots``, in this order.

        ``headers`` holds the sealed headers of the whole buffer, and
        ``payloads`` the payload of each slot asked for.
        """
        tag = self._tag(Tag.PACKET)
        parts: list[bytes | memoryview] = []
        for slot, payload in zip(slots, payloads, strict=True):
            start = PACKET_HEADER_SIZE * slot
            parts += (tag, headers[start : start + PACKET_HEADER_SIZE], payload)
        return b"".join(parts)

    def unheld_packet(self, seq: int) -> bytes:
        """The answer to a request for a packet that is not held."""
        return self._tag(Tag.PACKET) + struct.pack(self.byte_order + "3I", seq, 0, 0)

    # From the client.

    def fetch(self, first: int, count: int) -> bytes:
        """A request for the packets of the image from seq ``first`` on, in order."""
        return struct.pack("!B2I", Tag.FETCH, first, count)

    def request(self, seqs: Sequence[int]) -> bytes:
        """A request for these packets."""
        return bytes((Tag.CLIENT_REQ,)) + struct.pack(
            f"{self.byte_order}{1 + len(seqs)}I", len(seqs), *seqs
        )


KOLLACAST = Dialect(
    name="kollacast",
    byte_order="!",
    tagged=True,
    greets=True,
    proves=True,
    fetches=True,
    descending=False,
    answers_unheld=False,
    max_buffer_packets=65536,
    max_announced=65536,
    max_window=64,
    max_mtu=65535,
    ready_wait_s=math.inf,
    default_group="239.238.0.31",
)

# The C programs up to May 2017 announce and take 1024 packets and wait for 5 s, those since then
# 65536 and 20 s; on the wire there is no telling them apart.
JASMINE = Dialect(
    name="jasmine",
    byte_order="<",
    tagged=False,
    greets=False,
    proves=False,
    fetches=False,
    descending=True,
    answers_unheld=True,
    max_buffer_packets=65536,
    max_announced=1024,
    max_window=1,
    max_mtu=1500,
    ready_wait_s=5.0,
    default_group="224.238.0.31",
)

DIALECTS = {dialect.name: dialect for dialect in (KOLLACAST, JASMINE)}
