"""Bytes that crossed a network, and the settings of the property tests.

:data:`JASMINE_SERVER` and :data:`JASMINE_CLIENT` are the two sides of a session of the original C
programs, as it was recorded: an image of 2926 bytes, and one client that asks for the last packet
again although it has it.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from kollacast.wire.greeting import GroupInfo
from kollacast.wire.messages import BufferCtl, Done, Message, Packet, Ready, Request, Sent

#: For every property test: the machine may be busy, and nothing is kept between runs.
PROPERTY = settings(
    deadline=None,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

IMAGE = bytes((7 * i + 3) % 256 for i in range(2926))

GROUP_INFO = bytes.fromhex("0200 47cf e0ee001f 0000000000000000")
BUFFER = bytes.fromhex("01000000 6e0b0000 00000000 03000000")
END = bytes.fromhex("02000000 00000000 03000000 00000000")
REQUEST = bytes.fromhex("02 01000000 02000000")
HEADERS = (
    bytes.fromhex("00000000 0fc2bbb4 b4050000"),
    bytes.fromhex("01000000 8b3d3732 b4050000"),
    bytes.fromhex("02000000 d2e1eaf0 06000000"),
)
LAST_PACKET = bytes.fromhex("02000000 d2e1eaf0 06000000 dbe2e9f0f7fe")
READY, DONE, SENT = b"\x01", b"\x04", b"\x08"

#: What the server says by TCP, message by message: bytes and meaning.
JASMINE_SERVER: tuple[tuple[bytes, Message], ...] = (
    (GROUP_INFO, GroupInfo("224.238.0.31", 18383)),
    (BUFFER, BufferCtl(1, 2926, 0, 3)),
    (SENT, Sent()),
    (LAST_PACKET, Packet(2, 0xF0EAE1D2, IMAGE[2920:])),
    (END, BufferCtl(2, 0, 3, 0)),
    (SENT, Sent()),
)
#: What the client says.
JASMINE_CLIENT: tuple[tuple[bytes, Message], ...] = (
    (READY, Ready()),
    (REQUEST, Request((2,))),
    (DONE, Done()),
    (READY, Ready()),
    (DONE, Done()),
)
