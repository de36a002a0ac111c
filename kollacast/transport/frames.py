"""Many single datagrams a system call: libc's recvmmsg, each into its own slot.

The message headers that the kernel wants are built once for a buffer's whole
life, so a call names nothing but its first slot and a count.  Layouts are
``struct msghdr``, ``struct iovec`` and ``struct mmsghdr`` of recvmmsg(2).
"""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
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
_WORD = 8
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
    """Whether this system is a 64-bit one whose libc has recvmmsg."""
    return ctypes.sizeof(ctypes.c_void_p) == _WORD and _recvmmsg() is not None


class _Messages:
    """The message headers of every slot of one buffer, written column by column."""

    def __init__(self, buffer: PacketBuffer) -> None:
        count = buffer.max_packets
        self._vectors = (_IoVec * (2 * count))()
        self._headers = (_MMsgHdr * count)()
        vectors = _words(self._vectors)
        for part, (view, size) in enumerate(
            ((buffer.headers, PACKET_HEADER_SIZE), (buffer.payload, buffer.capacity))
        ):
            base = ctypes.addressof(ctypes.c_char.from_buffer(view))
            vectors[2 * part :: 4] = array("Q", range(base, base + size * count, size))
            vectors[2 * part + 1 :: 4] = array("Q", (size,)) * count
        step = 2 * ctypes.sizeof(_IoVec)
        base = ctypes.addressof(self._vectors)
        words = _words(self._headers)
        stride = _SIZE // _WORD
        words[_MsgHdr.iov.offset // _WORD :: stride] = array(
            "Q", range(base, base + step * count, step)
        )
        words[_MsgHdr.iovlen.offset // _WORD :: stride] = array("Q", (2,)) * count
        self.address = ctypes.addressof(self._headers)
        halves = memoryview(self._headers).cast("B").cast("I")
        self.lengths = halves[_MMsgHdr.len.offset // 4 :: _SIZE // 4]


def _words(structures: Any) -> memoryview:
    return memoryview(structures).cast("B").cast("Q")


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
