"""The two dialects of the protocol, each one a value.

Code above the wire never asks which dialect it has: what differs is either
packed and parsed here or is a field of :class:`Dialect`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kollacast.wire.checksum import Crc32c, Engine, WordSum
from kollacast.wire.packets import PacketCodec
from kollacast.wire.structures import Tag


@dataclass(frozen=True)
class Dialect:
    """How one kind of peer speaks, and what it can do."""

    name: str
    byte_order: str  #: a prefix of struct's
    #: The bytes that messages begin with.  Structures whose tag is not among them follow without
    #: one, and what comes next follows from what went before.
    tags: frozenset[Tag]
    introduces: bool  #: both sides introduce themselves in JSON
    #: What is told to all clients is numbered and multicast, and they answer with credit.
    multicasts_control: bool
    seeds_crc: bool  #: a packet's checksum depends on session and seq
    resizes: bool  #: buffers may differ in size
    codes: bool  #: one packet can mend different losses of several clients
    proves: bool  #: a digest and reports follow the last buffer
    fetches: bool  #: a client may read the image by TCP, outside the barrier
    descending: bool  #: a buffer is multicast from its last packet to its first
    #: Every packet that is asked for is answered, with an empty one where it is not held, and even
    #: when the client has it by now.
    answers_all: bool
    max_buffer_packets: int  #: of one buffer that is received
    max_announced: int  #: packets of one buffer that every client takes
    max_window: int  #: buffers in flight
    #: Buffers that are announced before there is room for them, so that their data does not come
    #: right behind a word of them that may get lost.
    announced_ahead: int
    max_mtu: int  #: bytes of a datagram, with its IP and UDP headers, that every client takes
    ready_wait_s: float  #: for which any client waits behind its READY for a datagram or SENT
    default_group: str

    @property
    def tagged(self) -> bool:
        """Whether every message begins with its tag."""
        return Tag.BUFFER in self.tags

    def codec(self, salt: int, engine: Engine) -> PacketCodec:
        """The packet codec of a session with this ``salt``."""
        return PacketCodec(self.byte_order, Crc32c(salt, engine) if self.seeds_crc else WordSum())

    def head(self, tag: Tag) -> bytes:
        """What stands before a structure: its tag, or nothing."""
        return bytes((tag,)) if tag in self.tags else b""


KOLLACAST = Dialect(
    name="kollacast",
    byte_order="!",
    tags=frozenset(Tag) - {Tag.CLIENT_READY, Tag.CLIENT_DONE},
    introduces=True,
    multicasts_control=True,
    seeds_crc=True,
    resizes=True,
    codes=True,
    proves=True,
    fetches=True,
    descending=False,
    answers_all=False,
    max_buffer_packets=65536,
    max_announced=65536,
    max_window=64,
    announced_ahead=1,
    max_mtu=65535,
    ready_wait_s=math.inf,
    default_group="239.238.0.31",
)

# The C programs up to May 2017 announce and take 1024 packets and wait for 5 s, those since then
# 65536 and 20 s; on the wire there is no telling them apart.
JASMINE = Dialect(
    name="jasmine",
    byte_order="<",
    tags=frozenset({Tag.CLIENT_READY, Tag.CLIENT_REQ, Tag.CLIENT_DONE, Tag.SERVER_SENT}),
    introduces=False,
    multicasts_control=False,
    seeds_crc=False,
    resizes=False,
    codes=False,
    proves=False,
    fetches=False,
    descending=True,
    answers_all=True,
    max_buffer_packets=65536,
    max_announced=1024,
    max_window=1,
    announced_ahead=0,
    max_mtu=1500,
    ready_wait_s=5.0,
    default_group="224.238.0.31",
)

DIALECTS = {dialect.name: dialect for dialect in (KOLLACAST, JASMINE)}
