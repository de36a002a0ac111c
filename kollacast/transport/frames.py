"""Many single datagrams a system call: libc's recvmmsg, each into its own slot.

The message headers that the kernel wants are built once for a buffer's whole
life, so a call names nothing but its first slot and a count.  Layouts are
``struct msghdr``, ``struct iovec`` and ``struct mmsghdr`` of recvmmsg(2).
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any
from weakref import WeakKeyDictionary

from kollacast.core.buffer import PacketBuffer
from kollacast.wire.structures import PACKET_HEADER_SIZE


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("hdr", _MsgHdr), ("len", ctypes.c_uint32))


_SIZE = ctypes.sizeof(_MMsgHdr)
_MSG_DONTWAIT = 0x40


@functools.cache
def _recvmmsg() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        function = libc.recvmmsg
    except AttributeError:
        return None
    function.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_void_p,
    )
    return function


def available() -> bool:
    """Whether this system's libc has recvmmsg."""
    return _recvmmsg() is not None


class _Messages:
    """The message headers of every slot of one buffer."""

    def __init__(self, buffer: PacketBuffer) -> None:
        count = buffer.max_packets
        self._vectors = (_IoVec * (2 * count))()
        self._headers = (_MMsgHdr * count)()
        header = ctypes.addressof(ctypes.c_char.from_buffer(buffer.headers))
        payload = ctypes.addressof(ctypes.c_char.from_buffer(buffer.payload))
        vectors = ctypes.addressof(self._vectors)
        step = 2 * ctypes.sizeof(_IoVec)
        for slot in range(count):
            self._vectors[2 * slot] = _IoVec(header + slot * PACKET_HEADER_SIZE, PACKET_HEADER_SIZE)
            self._vectors[2 * slot + 1] = _IoVec(payload + slot * buffer.capacity, buffer.capacity)
            self._headers[slot].hdr.iov = vectors + slot * step
            self._headers[slot].hdr.iovlen = 2
        self.address = ctypes.addressof(self._headers)
        words = memoryview(self._headers).cast("B").cast("I")
        self.lengths = words[_MMsgHdr.len.offset // 4 :: _SIZE // 4]


_messages: WeakKeyDictionary[PacketBuffer, _Messages] = WeakKeyDictionary()


def receive(fileno: int, buffer: PacketBuffer, slot: int, count: int) -> list[int]:
    """Receive up to ``count`` datagrams into ``slot`` and after.

    Returns the length of each.  Raises OSError, BlockingIOError when none waits.
    """
    messages = _messages.get(buffer)
    if messages is None:
        messages = _messages[buffer] = _Messages(buffer)
    received = _recvmmsg()(fileno, messages.address + slot * _SIZE, count, _MSG_DONTWAIT, None)
    if received < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return messages.lengths[slot : slot + received].tolist()
