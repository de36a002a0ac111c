"""What comes over one host's connection, as messages: often the same bytes as at all other hosts.

The server says the same to everyone, so what is short and ends with a message's end is parsed for
the first host that hears it, and looked up for all others.
"""

from __future__ import annotations

from collections.abc import Iterator

from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Greeting
from kollacast.wire.messages import Message, Packet, TaggedMessage
from kollacast.wire.parser import ServerStream
from kollacast.wire.structures import payload_capacity

_SHORT = 128
_PACKET_HEAD = 13

#: Short pieces that are whole messages; of a run, they are a few for each buffer.
Known = dict[bytes, tuple[Message, ...]]


class Line:
    """One connection's way in; `known` is shared by all lines of a crowd."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._stream = ServerStream()
        self._has_begun = False  # the greeting is read
        self._incomplete = 0  # bytes of a message whose rest is to come

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes. WireError on nonsense."""
        is_between = self._has_begun and not self._incomplete
        if is_between and (known := self._known.get(data)) is not None:
            yield from known
            return
        messages = []
        self._incomplete += len(data)
        for message in self._stream.feed(data):
            if self._has_begun:
                self._incomplete -= _length(message)
            elif isinstance(message, Greeting):
                self._stream.capacity = payload_capacity(message.mtu)
                self._has_begun = True
                self._incomplete = self._stream.buffered
            messages.append(message)
            yield message
        if is_between and not self._incomplete and len(data) <= _SHORT:
            self._known[data] = tuple(messages)


def _length(message: Message) -> int:
    if isinstance(message, Packet):
        return _PACKET_HEAD + len(message.payload)
    assert isinstance(message, TaggedMessage)
    return len(message.encode(KOLLACAST))
