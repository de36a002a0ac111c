"""What both ends say to each other once they know each other: each message, made and read.

Each is a :class:`~kollacast.wire.tagged.TaggedMessage`, where a ``limit`` bounds what has no size
of its own: the packets of a :class:`Request`, the bytes of a :class:`Packet`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from kollacast.wire.dialect import Dialect
from kollacast.wire.greeting import (
    Challenge,
    Greeting,
    GroupInfo,
    Hello,
    Refusal,
    Response,
    clean_text,
    decode_json,
    encode_json,
    length_prefixed,
)
from kollacast.wire.packets import header_at
from kollacast.wire.parity import MAX_LAYERS, MAX_PARITY, ParityRun
from kollacast.wire.pieces import Pieces, Want
from kollacast.wire.recipes import is_parity
from kollacast.wire.structures import (
    MAX_CONTROL_SIZE,
    MAX_FETCH,
    PACKET_HEADER_SIZE,
    SEQ_LIMIT,
    Tag,
    WireError,
)
from kollacast.wire.tagged import Decoding, TaggedMessage, body

#: No account tells of longer times.
_MOST_SECONDS = 1e9


# From the client.


@dataclass(frozen=True, slots=True)
class Ready(TaggedMessage):
    """The client has room for the next announced buffer."""

    tag = Tag.CLIENT_READY


@dataclass(frozen=True, slots=True)
class Request(TaggedMessage):
    """The client asks for these packets again."""

    tag = Tag.CLIENT_REQ
    seqs: tuple[int, ...]

    def encode(self, dialect: Dialect) -> bytes:
        count = len(self.seqs)
        return bytes((self.tag,)) + struct.pack(
            f"{dialect.byte_order}{1 + count}I", count, *self.seqs
        )

    @classmethod
    def of_whole(cls, dialect: Dialect, limit: int, data: bytes) -> Request | None:
        count = len(data) // 4 - 1
        if len(data) != 5 + 4 * count or not 0 <= count <= limit:
            return None
        said, *seqs = struct.unpack_from(f"{dialect.byte_order}{1 + count}I", data, 1)
        return cls(tuple(seqs)) if said == count else None

    @classmethod
    def decode(cls, dialect: Dialect, limit: int) -> Decoding[Request]:
        (count,) = struct.unpack(dialect.byte_order + "I", (yield 4))
        if count > limit:
            raise WireError(f"a request for {count} packets, {limit} is the limit")
        return cls(struct.unpack(f"{dialect.byte_order}{count}I", (yield 4 * count)))


@dataclass(frozen=True, slots=True)
class Done(TaggedMessage):
    """The client has the next buffer, and has flushed it."""

    tag = Tag.CLIENT_DONE


@dataclass(frozen=True, slots=True)
class Credit(TaggedMessage):
    """The client has all buffers up to the id ``done``, and room for those up to ``room``.

    Of those that it has not told of before it lacked ``lost`` packets once they were sent, in so
    many ``runs`` of packets that follow on each other.
    """

    tag = Tag.CREDIT
    layout = "4I"
    done: int
    room: int
    lost: int = 0
    runs: int = 0

    def _checked(self) -> Credit:
        if self.room < self.done:
            raise WireError(f"credit up to buffer {self.room} behind buffer {self.done}")
        if self.runs > self.lost or (self.lost and not self.runs):
            raise WireError(f"{self.lost} lost packets in {self.runs} runs")
        return self


@dataclass(frozen=True, slots=True)
class Ask(TaggedMessage):
    """The client knows the control stream up to this number, and asks for what follows by TCP."""

    tag = Tag.ASK
    layout = "I"
    known: int


@dataclass(frozen=True, slots=True)
class Fetch(TaggedMessage):
    """The client asks for ``count`` packets from seq ``first`` on, whatever the others do."""

    tag = Tag.FETCH
    layout = "2I"
    first: int
    count: int

    def _checked(self) -> Fetch:
        if self.count > MAX_FETCH or self.first + self.count > SEQ_LIMIT:
            raise WireError(f"a fetch of {self.count} packets from {self.first} on")
        return self


# From the server.


@dataclass(frozen=True, slots=True)
class BufferCtl(TaggedMessage):
    """The announcement of one buffer.

    ``buffer_size`` counts payload bytes, ``packet_id_base`` is the seq of the
    first packet, and a ``pkt_count`` of 0 means the end of the stream.
    """

    tag = Tag.BUFFER
    layout = "4I"
    buffer_id: int
    buffer_size: int
    packet_id_base: int
    pkt_count: int

    @property
    def is_end(self) -> bool:
        """Whether this is the empty buffer that ends the stream."""
        return self.pkt_count == 0

    def check(self, capacity: int, max_packets: int) -> None:
        """Raise :class:`WireError` unless a buffer of this shape can exist.

        ``capacity`` is the payload capacity of a packet in bytes and
        ``max_packets`` the most packets that a buffer may have.
        """
        if not 0 < self.buffer_id <= SEQ_LIMIT + 1:  # each but the last has a packet
            raise WireError(f"a buffer has the number {self.buffer_id}")
        if self.pkt_count > max_packets:
            raise WireError(
                f"a buffer of {self.pkt_count} packets is announced, {max_packets} is the limit"
            )
        if self.packet_id_base + self.pkt_count > SEQ_LIMIT:
            raise WireError(f"a buffer reaches into the reserved seqs from {SEQ_LIMIT:#x} up")
        if not self.pkt_count <= self.buffer_size <= self.pkt_count * capacity:
            raise WireError(
                f"a buffer of {self.pkt_count} packets cannot hold {self.buffer_size} bytes"
            )


@dataclass(frozen=True, slots=True)
class Sent(TaggedMessage):
    """The multicast of a buffer is over, of which so many ``packets`` have left.

    With no fields it is the next announced one, and whole.
    """

    tag = Tag.SERVER_SENT
    layout = "2I"
    buffer_id: int = 0
    packets: int = 0

    def encode(self, dialect: Dialect) -> bytes:
        if dialect.multicasts_control:
            return super(Sent, self).encode(dialect)
        return dialect.head(self.tag)

    @classmethod
    def decode(cls, dialect: Dialect, limit: int) -> Decoding[Sent]:
        if dialect.multicasts_control:
            return (yield from super(Sent, cls).decode(dialect, limit))
        return cls()


@dataclass(frozen=True, slots=True)
class Repaired(TaggedMessage):
    """Coded repairs of a buffer have been multicast: ask for what is still missing.

    ``count`` parity packets were among them, or none, from the seq ``first`` on: each packet of
    the buffer is in one of each of their ``layers``.
    """

    tag = Tag.REPAIRED
    layout = "4I"
    buffer_id: int
    first: int = 0
    count: int = 0
    layers: int = 0

    @classmethod
    def of(cls, buffer_id: int, run: ParityRun) -> Repaired:
        """Of a buffer, with this run of parity packets or none."""
        return cls(buffer_id, run.first, run.count, run.layers)

    @property
    def parity(self) -> ParityRun:
        """The run of parity packets."""
        return ParityRun(self.first, self.count, self.layers)

    def _checked(self) -> Repaired:
        if self.count and not (
            self.count <= MAX_PARITY and 0 < self.layers <= MAX_LAYERS and is_parity(self.first)
        ):
            raise WireError(
                f"repairs of {self.count} parity packets in {self.layers} layers from"
                f" {self.first:#x} on"
            )
        return self


@dataclass(frozen=True, slots=True)
class Packet(TaggedMessage):
    """A retransmission; an empty ``payload`` means that it is not held."""

    tag = Tag.PACKET
    seq: int
    crc: int
    payload: bytes

    def encode(self, dialect: Dialect) -> bytes:
        header = struct.pack(dialect.byte_order + "3I", self.seq, self.crc, len(self.payload))
        return dialect.head(self.tag) + header + self.payload

    @classmethod
    def decode(cls, dialect: Dialect, limit: int) -> Decoding[Packet]:
        seq, crc, size = struct.unpack(dialect.byte_order + "3I", (yield PACKET_HEADER_SIZE))
        if size > limit:
            raise WireError(f"a packet of {size} bytes, {limit} is the limit")
        return cls(seq, crc, (yield size) if size else b"")


def encode_sealed(
    dialect: Dialect,
    headers: memoryview | bytes,
    slots: Sequence[int],
    payloads: Sequence[memoryview],
) -> bytes:
    """The :class:`Packet` of each of these ``slots``, in this order, as one piece.

    ``headers`` holds the sealed headers of the whole buffer, and
    ``payloads`` the payload of each slot asked for.
    """
    head = dialect.head(Tag.PACKET)
    parts: list[bytes | memoryview] = []
    for slot, payload in zip(slots, payloads, strict=True):
        parts += (head, headers[header_at(slot)], payload)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Digest(TaggedMessage):
    """The digest of the whole image, 32 bytes."""

    tag = Tag.DIGEST
    layout = "32s"
    value: bytes


#: What is told to all clients alike.
Notice = BufferCtl | Sent | Repaired
_NOTICES: dict[int, type[TaggedMessage]] = {kind.tag: kind for kind in (BufferCtl, Sent, Repaired)}


@dataclass(frozen=True, slots=True)
class Control(TaggedMessage):
    """A part of the control stream, whose notices are numbered from 1.

    Those before the number ``oldest`` concern nobody any more; ``notices`` begin with the number
    ``first``.  The same fields cross the network by TCP and as the data of a packet.
    """

    tag = Tag.CONTROL
    oldest: int
    first: int
    notices: tuple[Notice, ...]

    #: Bytes before the notices.
    HEAD_SIZE: ClassVar[int] = 8

    def encode(self, dialect: Dialect) -> bytes:
        data = self.data(dialect)
        return dialect.head(self.tag) + body(dialect.byte_order, "I").pack(len(data)) + data

    def data(self, dialect: Dialect) -> bytes:
        """What a packet carries."""
        head = body(dialect.byte_order, "2I").pack(self.oldest, self.first)
        return head + b"".join([notice.encode(dialect) for notice in self.notices])

    @classmethod
    def decode(cls, dialect: Dialect, limit: int) -> Decoding[Control]:
        (size,) = body(dialect.byte_order, "I").unpack((yield 4))
        if not cls.HEAD_SIZE <= size <= MAX_CONTROL_SIZE:
            raise WireError(f"{size} bytes of the control stream")
        return cls.of_data(dialect, (yield size))

    @classmethod
    def of_data(cls, dialect: Dialect, data: bytes) -> Control:
        """Read what a packet carries."""
        if len(data) < cls.HEAD_SIZE:
            raise WireError(f"{len(data)} bytes of the control stream")
        oldest, first = body(dialect.byte_order, "2I").unpack_from(data)
        if not 0 < oldest <= first:
            raise WireError(
                f"number {first} of the control stream, of which {oldest} is the oldest"
            )
        notices: list[Notice] = []
        at = cls.HEAD_SIZE
        while at < len(data):
            kind = _NOTICES.get(data[at])
            size = 0 if kind is None else struct.calcsize(dialect.byte_order + kind.layout)
            at += 1
            if kind is None or len(data) - at < size:
                raise WireError("a part of the control stream that nobody writes")
            fields = body(dialect.byte_order, kind.layout).unpack_from(data, at)
            notices.append(kind(*fields)._checked())  # type: ignore[arg-type]
            at += size
        if first + len(notices) > 1 << 32:
            raise WireError(f"{len(notices)} numbers of the control stream from {first} on")
        return cls(oldest, first, tuple(notices))


# From both.


@dataclass(frozen=True, slots=True)
class Detach(TaggedMessage):
    """From the client: take me out of the barrier.  From the server: you are out, fetch."""

    tag = Tag.DETACH


@dataclass(frozen=True, slots=True)
class Report(TaggedMessage):
    """A side's account of itself, or the reason for which it gives up."""

    tag = Tag.REPORT
    fields: dict[str, Any]

    def encode(self, dialect: Dialect) -> bytes:
        return bytes((self.tag,)) + encode_json(self.fields)

    @classmethod
    def decode(cls, dialect: Dialect, limit: int) -> Decoding[Report]:
        return cls(decode_json((yield from length_prefixed())))

    def says(self, key: str) -> bool:
        """Whether ``key`` is said to be so: "ok", "refused", "later"."""
        return self.fields.get(key) is True

    @property
    def reason(self) -> str:
        """Why it gives up, as one line."""
        reason = self.fields.get("reason")
        return clean_text(reason) if isinstance(reason, str) else "it gave no reason"

    def count(self, key: str) -> int | None:
        """A number of packets, None where there is none."""
        value = self.fields.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        return value if 0 <= value <= SEQ_LIMIT else None

    def measure(self, key: str) -> float | None:
        """Seconds, None where there are none that make sense."""
        value = self.fields.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if 0 <= value <= _MOST_SECONDS else None


Message = (
    Ready
    | Request
    | Done
    | Credit
    | Ask
    | Want
    | Fetch
    | Detach
    | Sent
    | Repaired
    | BufferCtl
    | Packet
    | Digest
    | Control
    | Pieces
    | Report
    | Hello
    | Response
    | Greeting
    | Challenge
    | Refusal
    | GroupInfo
)
