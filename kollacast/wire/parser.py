"""Bytes in, messages out: the TCP streams of both directions, incrementally.

A stream is fed whatever the transport delivers, in pieces of any size, and
yields whole messages; what is incomplete waits in its :class:`ReceiveQueue`.
Every length is checked against its limit as soon as it has arrived, so that
a peer cannot make the queue grow beyond one message.

``feed`` is a generator: a message is parsed only after the one before it has
been consumed, so its consumer may change what the stream expects next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.greeting import (
    GROUP_INFO_START,
    MAGIC,
    TLS_UNEXPECTED,
    Challenge,
    Greeting,
    GroupInfo,
    Hello,
    Response,
    length_prefixed,
)
from kollacast.wire.messages import (
    Ask,
    BufferCtl,
    Control,
    Credit,
    Detach,
    Digest,
    Done,
    Fetch,
    Message,
    Packet,
    Ready,
    Report,
    Request,
    Sent,
)
from kollacast.wire.pieces import Pieces, Want
from kollacast.wire.structures import GROUP_INFO_SIZE, MAX_HELLO_SIZE, Tag, WireError
from kollacast.wire.tagged import Decoding

#: What each side may say, by the byte that a message begins with.
_FROM_CLIENT: dict[int, type[Any]] = {
    kind.tag: kind for kind in (Ready, Request, Done, Credit, Ask, Want, Fetch, Detach, Report)
}
_FROM_SERVER: dict[int, type[Any]] = {
    kind.tag: kind for kind in (BufferCtl, Packet, Detach, Control, Pieces, Digest, Report)
}
#: The first byte of TLS, a record with a handshake.
_TLS_RECORD = 0x16


class ReceiveQueue:
    """Received bytes that make no whole message yet.

    Appending is amortized O(n); taking from the head copies what is taken,
    and moves the rest only when the head has grown past half of it.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._head = 0

    def __len__(self) -> int:
        return len(self._data) - self._head

    def append(self, data: bytes) -> None:
        """Add received bytes at the end."""
        self._data += data

    def take(self, count: int) -> bytes:
        """Remove and return the first ``count`` bytes, which must be there."""
        taken = bytes(memoryview(self._data)[self._head : self._head + count])
        self._head += count
        if self._head * 2 >= len(self._data):
            del self._data[: self._head]
            self._head = 0
        return taken


class _Stream:
    """The incremental part: runs one parse at a time as bytes arrive."""

    def __init__(self) -> None:
        self._queue = ReceiveQueue()
        self._parse: Decoding[Message] | None = None
        self._needed = 0
        self._error: WireError | None = None

    def feed(self, data: bytes) -> Iterator[Message]:
        """Messages that ``data`` completes; :class:`WireError` on nonsense, and ever after."""
        if self._error is not None:
            raise self._error
        if self._parse is None and data and not self._queue:
            try:
                whole = self._whole(data)
            except WireError as error:
                self._error = error
                raise
            if whole is not None:
                yield whole
                return
        self._queue.append(data)
        while True:
            if self._parse is None:
                if not self._queue:
                    return
                self._parse = self._message()
                self._needed = next(self._parse)
            while len(self._queue) >= self._needed:
                try:
                    self._needed = self._parse.send(self._queue.take(self._needed))
                except StopIteration as stop:
                    self._parse = None
                    yield stop.value
                    break
                except WireError as error:
                    self._error = error
                    raise
            else:
                return

    @property
    def buffered(self) -> int:
        """Bytes that wait for the rest of their message."""
        return len(self._queue)

    def _message(self) -> Decoding[Message]:
        raise NotImplementedError

    def _whole(self, data: bytes) -> Message | None:
        """The message that ``data`` is, where that is seen at once."""
        return None


class ClientStream(_Stream):
    """What a server reads from one client.

    ``max_request`` bounds the packets of one request.  A client that ``is_challenged`` has to
    respond to that first.
    """

    def __init__(self, dialect: Dialect, max_request: int, *, is_challenged: bool = False) -> None:
        super().__init__()
        self._dialect = dialect
        self._max_request = max_request
        self._response_due = is_challenged
        self._hello_due = dialect.introduces
        self._kinds = {tag: kind for tag, kind in _FROM_CLIENT.items() if tag in dialect.tags}

    def _message(self) -> Decoding[Message]:
        if self._response_due:
            response = Response.decode((yield from length_prefixed(MAX_HELLO_SIZE)))
            self._response_due = False
            return response
        if self._hello_due:
            hello = Hello.decode((yield from length_prefixed(MAX_HELLO_SIZE)))
            self._hello_due = False
            return hello
        (tag,) = yield 1
        kind = self._kinds.get(tag)
        if kind is None:
            if tag == _TLS_RECORD and not self._dialect.introduces:
                raise WireError(TLS_UNEXPECTED)
            raise WireError(f"no message of a client begins with the byte {tag:#04x}")
        return (yield from kind.decode(self._dialect, self._max_request))

    def _whole(self, data: bytes) -> Message | None:
        # A thousand clients say so once for each buffer, and nothing else.
        kind = None if self._hello_due else self._kinds.get(data[0])
        return None if kind is None else kind.of_whole(self._dialect, self._max_request, data)


class ServerStream(_Stream):
    """What a client reads from a server whose dialect it does not know yet.

    The first message, behind a :class:`Challenge` where there is one, is a :class:`Greeting`,
    a :class:`Refusal` or a :class:`GroupInfo`, and settles :attr:`dialect`.  The jasmine dialect
    has no tags: there a consumer that has asked for packets says how many
    with :meth:`expect_packets` before it feeds more.
    """

    #: Largest payload a packet may have; set it once the greeting tells.
    capacity = 0

    def __init__(self) -> None:
        super().__init__()
        self.dialect: Dialect | None = None
        self._packets_due = 0
        self._sent_due = False

    def expect_packets(self, count: int) -> None:
        """``count`` packets have been asked for and will follow."""
        self._packets_due += count

    def _message(self) -> Decoding[Message]:
        if self.dialect is None:
            return (yield from self._greeting())
        if self.dialect.tagged:
            return (yield from self._tagged(self.dialect))
        return (yield from self._untagged(self.dialect))

    def _greeting(self) -> Decoding[Message]:
        start = yield len(GROUP_INFO_START)
        if start == GROUP_INFO_START:
            info = GroupInfo.decode(start + (yield GROUP_INFO_SIZE - len(start)))
            self.dialect = JASMINE
            return info
        if not MAGIC.startswith(start) or start + (yield len(MAGIC) - len(start)) != MAGIC:
            raise WireError("what answers there is no kollacast or jasmine server")
        first = Greeting.decode((yield from length_prefixed()))
        if not isinstance(first, Challenge):
            self.dialect = KOLLACAST
        return first

    def _tagged(self, dialect: Dialect) -> Decoding[Message]:
        (tag,) = yield 1
        kind = _FROM_SERVER.get(tag)
        if kind is None:
            raise WireError(f"no message of a server begins with the byte {tag:#04x}")
        return (yield from kind.decode(dialect, self.capacity))

    def _untagged(self, dialect: Dialect) -> Decoding[Message]:
        if self._packets_due:
            packet = yield from Packet.decode(dialect, self.capacity)
            self._packets_due -= 1
            return packet
        if self._sent_due:
            (tag,) = yield 1
            if tag != Tag.SERVER_SENT:
                raise WireError(f"the byte {tag:#04x} stands where SENT is due")
            self._sent_due = False
            return Sent()
        ctl = yield from BufferCtl.decode(dialect, self.capacity)
        self._sent_due = True
        return ctl
