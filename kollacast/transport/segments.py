"""Segments: packets that cross the kernel as one large datagram, from and into a buffer's slots.

Up to 64 KB of packets are cut at the end of their way out (UDP_SEGMENT), or
put together at the beginning of their way in (UDP_GRO).  Python's own
``sendmsg`` and ``recvmsg_into`` take a view for each header and payload of
it; here libc is given vectors that are built once for a buffer's whole life.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from kollacast.packets.buffer import PacketBuffer
from kollacast.transport.multicast import LINUX, SOL_UDP, UDP_GRO, UDP_SEGMENT
from kollacast.transport.vectors import (
    MSG_DONTWAIT,
    MSG_TRUNC,
    STEP,
    MMsgHdr,
    MsgHdr,
    error,
    function,
    vectors,
)

#: Large datagrams that are sent by one call, at the most.
MOST = 4

_SENDMMSG = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_RECVMSG = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
#: ``struct cmsghdr``: length, level and type; then the value. See cmsg(3).
_CMSG = "=Qii"
_CONTROL_SIZE = 64


def available(sock: object) -> bool:
    """Whether this is a socket of the kernel's, on a 64-bit Linux whose libc has these calls."""
    if not LINUX or not isinstance(sock, socket.socket):
        return False
    return function("sendmmsg", *_SENDMMSG) is not None and (
        function("recvmsg", *_RECVMSG) is not None
    )


class SegmentSender:
    """Sends segments to one ``group`` (address, port); all but a buffer's last are full."""

    def __init__(self, sock: socket.socket, group: tuple[str, int]) -> None:
        self._fileno = sock.fileno()
        self._sendmmsg = function("sendmmsg", *_SENDMMSG)
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", group[1])
        self._name = ctypes.create_string_buffer(
            address + socket.inet_aton(group[0]) + bytes(8), 16
        )
        self._control = ctypes.create_string_buffer(_CONTROL_SIZE)
        self._messages = (MMsgHdr * MOST)()
        self._headers: list[MsgHdr] = [message.hdr for message in self._messages]
        self._address = ctypes.addressof(self._messages)
        for header in self._headers:
            header.name = ctypes.addressof(self._name)
            header.namelen = 16
            header.control = ctypes.addressof(self._control)

    def send(self, buffer: PacketBuffer, first: int, count: int, segments: int) -> int:
        """Send ``count`` packets from slot ``first`` on, ``segments`` to a large datagram.

        Of these there are `MOST` at the most.

        Returns how many packets the kernel has taken, in whole large datagrams.  Raises
        OSError when it takes none.
        """
        stride = buffer.layout.stride
        struct.pack_into(f"{_CMSG}H", self._control, 0, 18, SOL_UDP, UDP_SEGMENT, stride)
        vector = vectors(buffer)
        base = vector.address
        end = first + count
        datagrams = 0
        for header, slot in zip(self._headers, range(first, end, segments), strict=False):
            length = min(segments, end - slot)
            header.iov = base + STEP * slot
            header.iovlen = 2 * length
            # A single datagram is not to be cut.
            header.controllen = 24 if length > 1 else 0
            datagrams += 1
        # The buffer's last packet may be short; in the buffer's next life the slot is full again.
        last = 4 * (end - 1) + 3
        vector.words[last] = len(buffer.slots(end - 1, 1)[0])
        try:
            taken: int = self._sendmmsg(self._fileno, self._address, datagrams, MSG_DONTWAIT)
        finally:
            vector.words[last] = buffer.capacity
        if taken < 0:
            raise error()
        return min(taken * segments, count)


class SegmentReceiver:
    """Receives segments from one socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._fileno = sock.fileno()
        self._recvmsg = function("recvmsg", *_RECVMSG)
        self._control = ctypes.create_string_buffer(_CONTROL_SIZE)
        self._header = MsgHdr(control=ctypes.addressof(self._control))
        self._address = ctypes.addressof(self._header)

    def receive(self, buffer: PacketBuffer, slot: int, slots: int) -> tuple[int, int]:
        """Receive one datagram, large or not, scattered over ``slots`` from ``slot`` on.

        Returns its bytes and those of each of its segments but the last; (0, 0) for one that is
        empty or has been cut off.  Raises OSError, BlockingIOError when nothing waits.
        """
        header = self._header
        header.iov = vectors(buffer).address + STEP * slot
        header.iovlen = 2 * slots
        header.controllen = _CONTROL_SIZE
        length: int = self._recvmsg(self._fileno, self._address, MSG_DONTWAIT)
        if length < 0:
            raise error()
        if length == 0 or header.flags & MSG_TRUNC:
            return 0, 0
        if header.controllen >= 20:
            _, level, kind, segment = struct.unpack_from(f"{_CMSG}i", self._control)
            if level == SOL_UDP and kind == UDP_GRO:
                return length, segment
        return length, length
