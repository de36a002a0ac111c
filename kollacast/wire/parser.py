"""Bytes in, messages out: the TCP streams of both directions, incrementally.

A stream is fed whatever the transport delivers, in pieces of any size, and
yields whole messages; what is incomplete waits in its :class:`ReceiveQueue`.
Every length is checked against its limit as soon as it has arrived, so that
a peer cannot make the queue grow beyond one message.

``feed`` is a generator: a message is parsed only after the one before it has
been consumed, so its consumer may change what the stream expects next.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.greeting import (
    GROUP_INFO_START,
    MAGIC,
    Greeting,
    GroupInfo,
    Hello,
    Refusal,
    decode_json,
)
from kollacast.wire.structures import (
    BUFFER_CTL_SIZE,
    DIGEST_SIZE,
    GROUP_INFO_SIZE,
    MAX_FETCH,
    MAX_JSON_SIZE,
    PACKET_HEADER_SIZE,
    SEQ_LIMIT,
    BufferCtl,
    Tag,
    WireError,
)


@dataclass(frozen=True, slots=True)
class Ready:
    """The client has room for the next announced buffer."""


@dataclass(frozen=True, slots=True)
class Request:
    """The client asks for these packets again."""

    seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The client has the next buffer, and has flushed it."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """The client asks for ``count`` packets from seq ``first`` on, whatever the others do."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Detach:
    """From the client: take me out of the barrier.  From the server: you are out, fetch."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The multicast of the next announced buffer is over."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """Coded repairs of a buffer have been multicast: ask for what is still missing."""

    buffer_id: int


@dataclass(frozen=True, slots=True)
class Packet:
    """A retransmission; an empty ``payload`` means that it is not held."""

    seq: int
    crc: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Digest:
    """The digest of the whole image."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """The server knows the shared secret."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """A side's account of itself, or the reason for which it gives up."""

    fields: dict[str, Any]


Message = (
    Ready
    | Request
    | Done
    | Fetch
    | Detach
    | Sent
    | Repaired
    | BufferCtl
    | Packet
    | Digest
    | Proof
    | Report
    | Hello
    | Greeting
    | Refusal
    | GroupInfo
)

#: Yields the bytes it needs, is sent them, and returns a message.
_Parse = Generator[int, bytes, Message]


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
        self._parse: _Parse | None = None
        self._needed = 0
        self._error: WireError | None = None

    def feed(self, data: bytes) -> Iterator[Message]:
        """Messages that ``data`` completes; :class:`WireError` on nonsense, and ever after."""
        if self._error is not None:
            raise self._error
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

    def _message(self) -> _Parse:
        raise NotImplementedError


def _length_prefixed() -> Generator[int, bytes, bytes]:
    (length,) = struct.unpack("!I", (yield 4))
    if length > MAX_JSON_SIZE:
        raise WireError(f"{length} bytes of JSON are announced, {MAX_JSON_SIZE} is the limit")
    return (yield length)


class ClientStream(_Stream):
    """What a server reads from one client.

    ``max_request`` bounds the packets of one request.
    """

    def __init__(self, dialect: Dialect, max_request: int) -> None:
        super().__init__()
        self._dialect = dialect
        self._max_request = max_request
        self._hello_due = dialect.greets

    def _message(self) -> _Parse:
        if self._hello_due:
            hello = Hello.decode((yield from _length_prefixed()))
            self._hello_due = False
            return hello
        (tag,) = yield 1
        if tag == Tag.CLIENT_READY:
            return Ready()
        if tag == Tag.CLIENT_DONE:
            return Done()
        order = self._dialect.byte_order
        if tag == Tag.CLIENT_REQ:
            (count,) = struct.unpack(order + "I", (yield 4))
            if count > self._max_request:
                raise WireError(f"a request for {count} packets, {self._max_request} is the limit")
            return Request(struct.unpack(f"{order}{count}I", (yield 4 * count)))
        if tag == Tag.FETCH and self._dialect.fetches:
            first, count = struct.unpack("!2I", (yield 8))
            if count > MAX_FETCH or first + count > SEQ_LIMIT:
                raise WireError(f"a fetch of {count} packets from {first} on")
            return Fetch(first, count)
        if tag == Tag.DETACH and self._dialect.fetches:
            return Detach()
        if tag == Tag.REPORT and self._dialect.proves:
            return Report(decode_json((yield from _length_prefixed())))
        raise WireError(f"no message of a client begins with the byte {tag:#04x}")


class ServerStream(_Stream):
    """What a client reads from a server whose dialect it does not know yet.

    The first message is a :class:`Greeting`, a :class:`Refusal` or a
    :class:`GroupInfo`, and settles :attr:`dialect`.  The jasmine dialect
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

    def _message(self) -> _Parse:
        if self.dialect is None:
            return (yield from self._greeting())
        if self.dialect.tagged:
            return (yield from self._tagged(self.dialect))
        return (yield from self._untagged(self.dialect))

    def _greeting(self) -> _Parse:
        start = yield len(GROUP_INFO_START)
        if start == GROUP_INFO_START:
            info = GroupInfo.decode(start + (yield GROUP_INFO_SIZE - len(start)))
            self.dialect = JASMINE
            return info
        if not MAGIC.startswith(start) or start + (yield len(MAGIC) - len(start)) != MAGIC:
            raise WireError("what answers there is no kollacast or jasmine server")
        greeting = Greeting.decode((yield from _length_prefixed()))
        self.dialect = KOLLACAST
        return greeting

    def _tagged(self, dialect: Dialect) -> _Parse:
        (tag,) = yield 1
        if tag == Tag.SERVER_SENT:
            return Sent()
        if tag == Tag.BUFFER:
            return self._buffer(dialect, (yield BUFFER_CTL_SIZE))
        if tag == Tag.PACKET:
            return (yield from self._packet(dialect))
        if tag == Tag.PROOF:
            return Proof((yield DIGEST_SIZE))
        if tag == Tag.DETACH:
            return Detach()
        if tag == Tag.REPAIRED:
            return Repaired(*struct.unpack("!I", (yield 4)))
        if tag == Tag.DIGEST:
            return Digest((yield DIGEST_SIZE))
        if tag == Tag.REPORT:
            return Report(decode_json((yield from _length_prefixed())))
        raise WireError(f"no message of a server begins with the byte {tag:#04x}")

    def _untagged(self, dialect: Dialect) -> _Parse:
        if self._packets_due:
            packet = yield from self._packet(dialect)
            self._packets_due -= 1
            return packet
        if self._sent_due:
            (tag,) = yield 1
            if tag != Tag.SERVER_SENT:
                raise WireError(f"the byte {tag:#04x} stands where SENT is due")
            self._sent_due = False
            return Sent()
        ctl = self._buffer(dialect, (yield BUFFER_CTL_SIZE))
        self._sent_due = True
        return ctl

    def _buffer(self, dialect: Dialect, data: bytes) -> BufferCtl:
        return BufferCtl(*struct.unpack(dialect.byte_order + "4I", data))

    def _packet(self, dialect: Dialect) -> _Parse:
        header = yield PACKET_HEADER_SIZE
        seq, crc, size = struct.unpack(dialect.byte_order + "3I", header)
        if size > self.capacity:
            raise WireError(f"a packet of {size} bytes, {self.capacity} is the limit")
        return Packet(seq, crc, (yield size) if size else b"")
