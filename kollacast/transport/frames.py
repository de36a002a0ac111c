"""Many single datagrams a system call: libc's recvmmsg, each into its own slot.

The message headers that the kernel wants are built once for a buffer's whole
life, so a call names nothing but its first slot and a count.
"""

from __future__ import annotations

import ctypes
from array import array
from typing import Any
from weakref import WeakKeyDictionary

from kollacast.packets.buffer import PacketBuffer
from kollacast.transport.vectors import (
    MSG_DONTWAIT,
    STEP,
    WORD,
    MMsgHdr,
    MsgHdr,
    error,
    function,
    vectors,
    words,
)

_SIZE = ctypes.sizeof(MMsgHdr)


def _recvmmsg() -> Any:
    pointer = ctypes.c_void_p
    return function("recvmmsg", ctypes.c_int, pointer, ctypes.c_uint, ctypes.c_int, pointer)


def available() -> bool:
    """Whether this system is a 64-bit one whose libc has recvmmsg."""
    return _recvmmsg() is not None


class _Messages:
    """The message headers of every slot of one buffer, written column by column."""

    def __init__(self, buffer: PacketBuffer) -> None:
        count = buffer.max_packets
        self._headers = (MMsgHdr * count)()
        self._vectors = vectors(buffer)  # which the headers point to
        base = self._vectors.address
        headers = words(self._headers)
        stride = _SIZE // WORD
        headers[MsgHdr.iov.offset // WORD :: stride] = array(
            "Q", range(base, base + STEP * count, STEP)
        )
        headers[MsgHdr.iovlen.offset // WORD :: stride] = array("Q", (2,)) * count
        self.address = ctypes.addressof(self._headers)
        halves = memoryview(self._headers).cast("B").cast("I")
        self.lengths = halves[MMsgHdr.len.offset // 4 :: _SIZE // 4]


_messages: WeakKeyDictionary[PacketBuffer, _Messages] = WeakKeyDictionary()


def receive(fileno: int, buffer: PacketBuffer, slot: int, count: int) -> list[int]:
    """Receive up to ``count`` datagrams into ``slot`` and after.

    Returns the length of each.  Raises OSError, BlockingIOError when none waits.
    """
    messages = _messages.get(buffer)
    if messages is None:
        messages = _messages[buffer] = _Messages(buffer)
    received = _recvmmsg()(fileno, messages.address + slot * _SIZE, count, MSG_DONTWAIT, None)
    if received < 0:
        raise error()
    return messages.lengths[slot : slot + received].tolist()
