"""What must hold for any bytes: one function for each thing that reads from the network.

A target takes the input and raises whatever is wrong. Peers may be refused, in one short line
(:class:`WireError`); nothing else may come out of a parser, its queue may not outgrow one message,
and the pieces that bytes come in may make no difference.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from fuzz import checks
from fuzz.control_stream import control_reader
from fuzz.deliveries import WAYS, Delivery
from fuzz.image_files import archives, manifests
from kollacast.client.terms import of_greeting
from kollacast.packets.buffer import PacketBuffer
from kollacast.packets.intake import Intake
from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import JASMINE, KOLLACAST, Dialect
from kollacast.wire.greeting import Greeting, Hello, Response, decode_json
from kollacast.wire.messages import BufferCtl, Control, Message, Sent
from kollacast.wire.parity import MAX_LAYERS, ParityRun
from kollacast.wire.parser import ClientStream, ServerStream
from kollacast.wire.recipes import (
    COMBINATION_BASE,
    CONTROL_BASE,
    PARITY_BASE,
    RECIPE_BASE,
    Recipe,
    pack,
)
from kollacast.wire.structures import MAX_JSON_SIZE, WireError

Target = Callable[[bytes], None]
#: The messages of a stream, and the error that ended it.
_Reading = tuple[list[Message], str | None]

_MAX_REQUEST = 100
#: Of a stream's queue: a tag, a length, and the longest message without its last byte.
_MAX_QUEUE = 5 + MAX_JSON_SIZE - 1
#: Of a client's buffers in bytes, as docs/protocol.md has it.
_MAX_WINDOW = 64 * 1024 * 1024

_ENGINE, _ = best_crc32c()
#: Of a datagram's payload: holds a recipe of two combinations of three packets.
_CAPACITY = 40
_SALT = 7
_CTLS = (BufferCtl(1, 20 * _CAPACITY, 0, 20), BufferCtl(2, 15 * _CAPACITY - 7, 20, 15))


# The streams.


def client_of_kollacast(data: bytes) -> None:
    """What a server reads from a client."""
    _check_stream(data, lambda pieces: _read_client(KOLLACAST, pieces))


def client_of_jasmine(data: bytes) -> None:
    """What a server reads from a client that speaks jasmine."""
    _check_stream(data, lambda pieces: _read_client(JASMINE, pieces))


def server(data: bytes) -> None:
    """What a client reads from a server, of which it knows nothing yet."""
    _check_stream(data, _read_server)


def _check_stream(data: bytes, read: Callable[[Iterator[bytes]], _Reading]) -> None:
    """The same comes out, whatever the pieces."""
    whole = read(_pieces(data, lambda: max(len(data), 1)))
    checks.same(whole, read(_pieces(data, lambda: 1)), "byte by byte")
    sizes = random.Random(data)
    checks.same(whole, read(_pieces(data, lambda: sizes.choice((1, 2, 3, 5, 40)))), "in pieces")
    checks.line(whole[1])


def _pieces(data: bytes, size: Callable[[], int]) -> Iterator[bytes]:
    while data:
        count = size()
        yield data[:count]
        data = data[count:]


def _read_client(dialect: Dialect, pieces: Iterator[bytes]) -> _Reading:
    return _read(ClientStream(dialect, _MAX_REQUEST), pieces, lambda message: None)


def _read_server(pieces: Iterator[bytes]) -> _Reading:
    stream = ServerStream()
    asked = 0

    def consume(message: Message) -> None:
        """Do what a client does: set the capacity, and ask for packets after SENT."""
        nonlocal asked
        if isinstance(message, Greeting):
            stream.capacity = of_greeting(message).shape.capacity
        elif stream.dialect is JASMINE:
            stream.capacity = 1460
            if isinstance(message, BufferCtl):
                asked = min(message.buffer_id, message.pkt_count, 3)
            elif isinstance(message, Sent):
                stream.expect_packets(asked)

    return _read(stream, pieces, consume)


def _read(
    stream: ClientStream | ServerStream,
    pieces: Iterator[bytes],
    consume: Callable[[Message], None],
) -> _Reading:
    messages: list[Message] = []
    for piece in pieces:
        try:
            for message in stream.feed(piece):
                messages.append(message)
                consume(message)
        except WireError as error:
            return messages, str(error)
        if stream.buffered > _MAX_QUEUE:
            raise AssertionError(f"{stream.buffered} bytes wait")
    return messages, None


# JSON.


def introductions(data: bytes) -> None:
    """The JSON of a greeting or challenge, of a response, of a hello and of a report.

    What is accepted says the same when it is sent on, and costs no more memory than it may.
    """
    for decode in (_greeting, _response, _hello, decode_json):
        try:
            decode(data)
        except WireError as error:
            checks.line(str(error))


def _greeting(data: bytes) -> None:
    greeting = Greeting.decode(data)
    checks.same(greeting, Greeting.decode(greeting.encode()[8:]), "sent on")
    if isinstance(greeting, Greeting) and of_greeting(greeting).shape.unread_bytes > _MAX_WINDOW:
        raise AssertionError("a window of more memory than a client gives")


def _response(data: bytes) -> None:
    response = Response.decode(data)
    checks.same(response, Response.decode(response.encode()[4:]), "sent on")


def _hello(data: bytes) -> None:
    hello = Hello.decode(data)
    checks.same(hello, Hello.decode(hello.encode()[4:]), "sent on")


# Datagrams.


def datagrams_of_kollacast(data: bytes) -> None:
    """Datagrams into a client's buffers, with coded repairs among them."""
    _check_datagrams(KOLLACAST, data)


def datagrams_of_jasmine(data: bytes) -> None:
    """The same where a sum takes the place of the CRC, and nothing is coded."""
    _check_datagrams(JASMINE, data)


def _check_datagrams(dialect: Dialect, data: bytes) -> None:
    """All ways of delivery come to the same, and touch nothing that has been received."""
    steps = list(_steps(dialect, data))
    first, *others = [_received(dialect, steps, way) for way in WAYS]
    for way, other in zip(WAYS[1:], others, strict=True):
        checks.same(first, other, way.__name__)


def _steps(dialect: Dialect, data: bytes) -> Iterator[list[bytes] | ParityRun | None]:
    """Runs of datagrams, what they are parity of, and None where the oldest buffer is done with.

    The input is records of a kind, a length and so many bytes: a datagram as it stands (kind 0),
    one that is made to pass the checksum of a seq (the first byte) and a payload (the rest), or
    a run of parity of the oldest buffer (kind 2).
    """
    codec = dialect.codec(_SALT, _ENGINE)
    run: list[bytes] = []
    while len(data) >= 2:
        kind, length = data[0] % 4, data[1] % (_CAPACITY + 14)
        body, data = data[2 : 2 + length], data[2 + length :]
        if kind == 0:
            # A kernel that keeps datagrams together never has an empty one among them.
            run.append(body[: 12 + _CAPACITY] or b"\0")
        elif kind == 3:
            yield run
            yield None
            run = []
        elif kind == 2 and dialect is KOLLACAST:
            yield run
            first, count, layers = body.ljust(3, b"\1")[:3]
            yield ParityRun(PARITY_BASE + first % 0x20, count % 0x20, 1 + layers % MAX_LAYERS)
            run = []
        elif body:
            payload = body[1 : 1 + _CAPACITY]
            run.append(codec.sealed(_seq(body[0]), [memoryview(payload)]) + payload)
    yield run


def _seq(byte: int) -> int:
    """A seq around the buffers, of a coded packet of either kind, a recipe, or a control packet."""
    if byte < 0x80:
        return byte
    base = (COMBINATION_BASE, PARITY_BASE, RECIPE_BASE, CONTROL_BASE)[byte // 0x20 - 4]
    return base + byte % 0x20


class _Buffer(PacketBuffer):
    """Knows how long each packet is that has been received."""

    def __init__(self, ctl: BufferCtl) -> None:
        super().__init__(_CAPACITY, ctl.pkt_count)
        self._lengths: dict[int, int] = {}
        self.init(ctl)

    def mark(self, slot: int, sizes: Sequence[int]) -> int:
        self._lengths.update(enumerate(sizes, slot))
        return super().mark(slot, sizes)

    def contents(self) -> dict[int, bytes]:
        """The packets received, by seq."""
        base = self.ctl.packet_id_base
        return {
            base + slot: bytes(self.payloads[slot][:length])
            for slot, length in self._lengths.items()
        }


def _received(
    dialect: Dialect, steps: Sequence[list[bytes] | ParityRun | None], deliver: Delivery
) -> list[object]:
    """What was counted and told, and what lies in the buffers in the end."""
    intake = Intake(dialect.codec(_SALT, _ENGINE), _CAPACITY, coded=dialect is KOLLACAST)
    told: list[bytes] = []
    intake.control = lambda seq, data: told.append(data)
    buffers = [_Buffer(ctl) for ctl in _CTLS]
    for buffer in buffers:
        intake.arm(buffer)
    armed = list(buffers)
    for step in steps:
        if step is None:
            if armed:
                intake.disarm(armed.pop(0))
            continue
        before = [buffer.contents() for buffer in buffers]
        if not isinstance(step, ParityRun):
            deliver(intake, step)
        elif armed:
            _mend(intake, armed[0], step)
        for buffer, contents in zip(buffers, before, strict=True):
            if not contents.items() <= buffer.contents().items():
                raise AssertionError("what had been received has changed")
    return [intake.counts, told, *(buffer.contents() for buffer in buffers)]


def control_parts(data: bytes) -> None:
    """A part of the control stream, which reads the same by TCP as in a packet, and anew."""
    stream = ServerStream()
    stream.dialect = KOLLACAST
    by_tcp = b"\x16" + len(data).to_bytes(4, "big") + data
    try:
        control = Control.of_data(KOLLACAST, data)
    except WireError as error:
        checks.line(str(error))
        checks.same(([], str(error)), _read(stream, iter([by_tcp]), lambda message: None), "by TCP")
        return
    checks.same(data, control.data(KOLLACAST), "made anew")
    checks.same(by_tcp, control.encode(KOLLACAST), "made anew by TCP")
    checks.same(([control], None), _read(stream, iter([by_tcp]), lambda message: None), "by TCP")


def _mend(intake: Intake, buffer: PacketBuffer, run: ParityRun) -> None:
    """What is asked for then is enough: with it all is here."""
    for _ in intake.mend(buffer, run):
        pass
    needed = intake.needed(buffer)
    if not set(needed) <= set(buffer.missing()):
        raise AssertionError("what is here is asked for")
    if bool(needed) == buffer.complete:
        raise AssertionError(f"{len(needed)} packets are asked for of {buffer.missing_count}")


def recipes(data: bytes) -> None:
    """The payload of a recipe: no more is read than is there, and it reads the same anew."""
    found = dict(Recipe.decode(data).named())
    for combination, terms in found.items():
        if not terms or not COMBINATION_BASE <= combination < RECIPE_BASE:
            raise AssertionError(f"combination {combination:#x} of {len(terms)} packets")
    if sum(map(len, found.values())) * 4 > len(data):
        raise AssertionError("more packets than the recipe has room for")
    if found:
        first = next(iter(found)) - COMBINATION_BASE
        again: dict[int, tuple[int, ...]] = {}
        for packet in pack(list(found.values()), first, len(data) + 8):
            again.update(Recipe.decode(packet).named())
        checks.same(dict(found), again, "packed anew")


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        client_of_kollacast,
        client_of_jasmine,
        server,
        introductions,
        datagrams_of_kollacast,
        datagrams_of_jasmine,
        recipes,
        control_parts,
        control_reader,
        archives,
        manifests,
    )
}
