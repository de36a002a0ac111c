"""What comes over one host's connection, as messages: often the same bytes as at all other hosts.

The server says the same to everyone, so what is short and ends with a message's end is parsed for
the first host that hears it, and looked up for all others. Packets, of which a host that fetches
hears hundreds at once, are cut here; all else is parsed by a client's own parser.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator

from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Greeting
from kollacast.wire.messages import Message, Packet
from kollacast.wire.parser import ServerStream
from kollacast.wire.structures import Tag, payload_capacity
from kollacast.wire.tagged import TaggedMessage

_SHORT = 128
#: Tag, seq, crc and size.
_PACKET_HEAD = struct.Struct("!BIII")

#: Short pieces that are whole messages; of a run, they are a few for each buffer.
Known = dict[bytes, tuple[Message, ...]]


class Line:
    """One connection's way in; `known` is shared by all lines of a crowd."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._stream = ServerStream()
        self._has_begun = False  # the greeting is read
        self._incomplete = 0  # bytes in the parser of a message whose rest is to come
        self._capacity = 0
        self._rest = b""  # of a packet that is cut here

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes. WireError on nonsense."""
        is_between = self._has_begun and not self._incomplete
        if is_between and not self._rest and (known := self._known.get(data)) is not None:
            yield from known
            return
        if is_between:
            data = yield from self._cut(self._rest + data if self._rest else data)
            if not data:
                return
        messages = []
        self._incomplete += len(data)
        for message in self._stream.feed(data):
            if self._has_begun:
                self._incomplete -= _length(message)
            elif isinstance(message, Greeting):
                self._capacity = self._stream.capacity = payload_capacity(message.mtu)
                self._has_begun = True
                self._incomplete = self._stream.buffered
            messages.append(message)
            yield message
        if is_between and not self._incomplete and len(data) <= _SHORT:
            self._known[data] = tuple(messages)

    def _cut(self, data: bytes) -> Generator[Message, None, bytes]:
        """The packets that `data` begins with; returns what is not for here."""
        start, length = 0, len(data)
        self._rest = b""
        while start < length and data[start] == Tag.PACKET:
            if length - start < _PACKET_HEAD.size:
                self._rest = data[start:]
                return b""
            _, seq, crc, size = _PACKET_HEAD.unpack_from(data, start)
            if size > self._capacity:
                break  # the parser says what is wrong with it
            end = start + _PACKET_HEAD.size + size
            if end > length:
                self._rest = data[start:]
                return b""
            yield Packet(seq, crc, data[start + _PACKET_HEAD.size : end])
            start = end
        return data[start:]


def _length(message: Message) -> int:
    if isinstance(message, Packet):
        return _PACKET_HEAD.size + len(message.payload)
    assert isinstance(message, TaggedMessage)
    return len(message.encode(KOLLACAST))
