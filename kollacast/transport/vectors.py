"""What libc's calls for many packets are given: layouts, and vectors over a buffer's slots.

Layouts are ``struct iovec``, ``struct msghdr`` and ``struct mmsghdr`` of readv(2), recvmsg(2) and
recvmmsg(2), on 64-bit systems.  The vectors of a buffer are built once for its whole life.
"""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
from typing import Any
from weakref import WeakKeyDictionary

from kollacast.packets.buffer import PacketBuffer

#: Bytes of a pointer and of a ``size_t``, which all fields below are made of.
WORD = 8
MSG_DONTWAIT = 0x40
MSG_TRUNC = 0x20
#: Bytes of vectors for one slot: its header's and its payload's.
STEP = 4 * WORD


class MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class MMsgHdr(ctypes.Structure):
    _fields_ = (("hdr", MsgHdr), ("len", ctypes.c_uint32))


@functools.cache
def function(name: str, *arguments: Any) -> Any:
    """libc's function of this name, or None where there is none or the layouts are others."""
    if ctypes.sizeof(ctypes.c_void_p) != WORD:
        return None
    try:
        found = getattr(ctypes.CDLL(None, use_errno=True), name)
    except AttributeError:
        return None
    found.argtypes = arguments
    return found


def error() -> OSError:
    """What the last call that returned -1 has failed with."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def words(structures: Any) -> memoryview:
    """Structures as numbers of 64 bits."""
    return memoryview(structures).cast("B").cast("Q")


class Vectors:
    """The vectors of all slots of a buffer, header and payload in turn; slot n at n * `STEP`."""

    def __init__(self, buffer: PacketBuffer) -> None:
        count = buffer.max_packets
        self._memory = bytearray(STEP * count)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.words = words(self._memory)
        for part, (view, size) in enumerate(
            ((buffer.headers, buffer.layout.header_size), (buffer.payload, buffer.capacity))
        ):
            base = ctypes.addressof(ctypes.c_char.from_buffer(view))
            self.words[2 * part :: 4] = array("Q", range(base, base + size * count, size))
            self.words[2 * part + 1 :: 4] = array("Q", (size,)) * count


_vectors: WeakKeyDictionary[PacketBuffer, Vectors] = WeakKeyDictionary()


def vectors(buffer: PacketBuffer) -> Vectors:
    """The vectors of a buffer."""
    found = _vectors.get(buffer)
    if found is None:
        found = _vectors[buffer] = Vectors(buffer)
    return found
