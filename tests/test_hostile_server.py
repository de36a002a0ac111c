"""A real server and real clients beside somebody who means ill, over real sockets.

Whatever that one says or leaves unsaid: it is cut off, the log says why, the server's memory stays
what it was, and every honest client ends with the image.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import struct
from collections.abc import Iterator

import psutil
import pytest
import pytest_twisted
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Hello, encode_json
from kollacast.wire.messages import (
    Ask,
    BufferCtl,
    Control,
    Credit,
    Fetch,
    Message,
    Request,
    Sent,
)
from kollacast.wire.parser import ServerStream
from kollacast.wire.structures import MAX_HELLO_SIZE, MAX_JSON_SIZE
from tests.processes import LOOPBACK, Crew, Program, ends, image_of, make_crew, on_the_reactor

crew = pytest_twisted.async_yield_fixture(make_crew)

_BUFFER = 20 * 1460
_SMALL_BUFFERS = ("--buffer-packets", "20")
_IMAGE = image_of(6 * _BUFFER)
#: Memory that a server may take on beside what it needs anyway, for all that is done to it.
_GROWTH = 48 << 20
_SILENT = 10_000
#: So many of them at a time wait to be accepted, far fewer than a kernel holds.
_AT_ONCE = 1000
#: Where they all come from: also an address of the loopback interface.
_CROWDED = "127.0.0.66"

_MEMBER = Hello("hostile", 1 << 16, fetch=True).encode()
_PULLER = Hello("hostile", 1 << 16, fetch=True, pull=True).encode()


def _brackets(size: int) -> bytes:
    return struct.pack("!I", size) + b"[" * size


def _credit(done: int, room: int) -> bytes:
    return Credit(done, room).encode(KOLLACAST)


def _fetch(first: int, count: int) -> bytes:
    return Fetch(first, count).encode(KOLLACAST)


class _Offender(Protocol):
    """Says `opening`, and what the test lets it say later; `heard` is what the server says."""

    def __init__(self, opening: bytes) -> None:
        self.heard: list[Message] = []
        self.is_closed = False
        self._opening = opening
        self._stream = ServerStream()
        self._stream.capacity = 65536

    def connectionMade(self) -> None:
        self.say(self._opening)

    def say(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        for message in self._stream.feed(data):
            if isinstance(message, Control):
                # It hears no multicast, and so is told all by TCP.
                self.heard += message.notices
                self.say(Ask(message.first + len(message.notices) - 1).encode(KOLLACAST))
            else:
                self.heard.append(message)

    def has_heard(self, kind: type) -> bool:
        return any(isinstance(message, kind) for message in self.heard)

    async def ended(self, crew: Crew) -> None:
        """Wait until it is cut off."""
        await crew.until(lambda: self.is_closed, "the end of the offender")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.is_closed = True


class _OffenderFactory(ClientFactory):
    noisy = False

    def __init__(self, offender: _Offender) -> None:
        self._offender = offender

    def buildProtocol(self, addr: IAddress | None) -> _Offender:
        return self._offender


def _offend(crew: Crew, opening: bytes) -> _Offender:
    offender = _Offender(opening)
    crew.reactor.connectTCP(LOOPBACK, crew.port, _OffenderFactory(offender))
    return offender


def _memory(program: Program) -> int:
    resident: int = psutil.Process(program.pid).memory_info().rss
    return resident


def _check_whole(*clients: Program) -> None:
    for client in clients:
        assert client.status == 0, client.errors
        assert client.output == _IMAGE


#: What is said before the start, and what the log says of it.
_AT_THE_DOOR = [
    (b"\xff\xff\xff\xff", "4294967295 bytes of JSON are announced"),
    (_brackets(MAX_HELLO_SIZE), "JSON cannot be read"),
    (struct.pack("!I", MAX_HELLO_SIZE + 1), "4097 bytes of JSON are announced"),
    (struct.pack("!I", MAX_HELLO_SIZE) + b"1" * MAX_HELLO_SIZE, "JSON"),
    (struct.pack("!I", MAX_HELLO_SIZE) + b'{"a":' * (MAX_HELLO_SIZE // 5) + b" ", "JSON"),
    (b"\x01", "no valid hello within 5 s"),
    (_MEMBER + b"\x02" + struct.pack("!I", 10**9), "a request for 1000000000 packets"),
    (_MEMBER + _credit(0, 1), "credit before a buffer was announced"),
    (_MEMBER + _credit(1, 0), "credit up to buffer 0 behind buffer 1"),
    (_MEMBER + Ask(0).encode(KOLLACAST), "a question about a stream that has not begun"),
    (_MEMBER + Request((0,)).encode(KOLLACAST), "a request before SENT"),
    (_MEMBER + _fetch(0, 1) * 10_000, "a fetch by a client in the barrier"),
    (_MEMBER + b"\x80\xff\xff\xff\xff", "4294967295 bytes of JSON are announced"),
    (_MEMBER + b"\x80" + _brackets(MAX_JSON_SIZE), "JSON cannot be read"),
    (_MEMBER + b"\x80" + encode_json({"ok": True}), "a report that is not due"),
    (_MEMBER * 2, "begins with the byte 0x00"),
    (_PULLER + _fetch(0, 65537), "a fetch of 65537 packets"),
    (_PULLER + _fetch(0xFFFFFFFF, 0xFFFFFFFF), "a fetch of 4294967295 packets"),
    (_PULLER + _fetch(0, 65536) * 10_000, "more than 16 fetches at once"),
    (_PULLER + _credit(0, 1), "a message that only a client in the barrier may send"),
]


@on_the_reactor
async def test_before_the_start(crew: Crew) -> None:
    """One after the other, each is out before the honest clients are all there."""
    words = ("--report", "report.json", "--spool", str(crew.folder))
    server = crew.server(*_SMALL_BUFFERS, *words, clients=3, stdin="pipe")
    await server.said("waiting for clients")
    clients = [crew.client("--name", "first")]
    await server.said("client first", "1 of 3")
    before = _memory(server)
    for opening, _ in _AT_THE_DOOR:
        await _offend(crew, opening).ended(crew)
    assert _memory(server) < before + _GROWTH
    clients += [crew.client(), crew.client()]
    server.write(_IMAGE)
    server.close_input()
    await ends(server, *clients)
    _check_whole(*clients)
    assert server.status == 0, server.errors
    out = [line for line in server.lines if "is no client: " in line or "hostile" in line]
    for _, text in _AT_THE_DOOR:
        assert any(text in line for line in out), text
    assert len(json.loads((crew.folder / "report.json").read_text())["clients"]) == 3


#: What a client says that was let in, once it has heard one kind of message, and why it is out.
_IN_STEP = {
    "credit that goes back": (BufferCtl, _credit(0, 2) + _credit(0, 1), "credit that goes back"),
    "done before it is sent": (BufferCtl, _credit(1, 1), "DONE for a buffer that was not sent"),
    "what is not told yet": (
        BufferCtl,
        Ask(1000).encode(KOLLACAST),
        "number 1000 of the control stream is not told yet",
    ),
    "a request before SENT": (BufferCtl, Request((0,)).encode(KOLLACAST), "a request before SENT"),
    "a request for a billion packets": (
        Sent,
        b"\x02" + struct.pack("!I", 10**9),
        "a request for 1000000000 packets",
    ),
    "a request for packets never sent": (
        Sent,
        Request((3, 0x7FFFFFFF)).encode(KOLLACAST),
        "a request for a packet that is not held",
    ),
    "the same packets again and again": (
        Sent,
        Request((0,) * 80).encode(KOLLACAST) * 1000,
        "requests for more than 160 packets at once",
    ),
    "a fetch in the barrier": (Sent, _fetch(0, 1), "a fetch by a client in the barrier"),
    "nothing": (Sent, b"", "s of the others' time, and it cannot fetch"),
}


@pytest.mark.parametrize("name", _IN_STEP)
@on_the_reactor
async def test_in_step_with_the_others(crew: Crew, name: str) -> None:
    """A member of the barrier offends in mid-transfer; an honest client comes in its place."""
    kind, words, reason = _IN_STEP[name]
    server = crew.server(
        *_SMALL_BUFFERS,
        *("--spool", str(crew.folder), "--patience", "1", "--client-timeout", "4"),
        clients=2,
        stdin="pipe",
    )
    await server.said("waiting for clients")
    before = _memory(server)
    client = crew.client()
    await server.said("1 of 2")
    hello = Hello("hostile", 1 << 16).encode()
    offender = _offend(crew, hello)
    server.write(_IMAGE[: 5 * _BUFFER])
    await crew.until(lambda: offender.has_heard(BufferCtl), "an announcement")
    if kind is Sent:
        # All that the window holds.
        offender.say(_credit(0, 1000))
        await crew.until(lambda: offender.has_heard(Sent), "SENT")
    offender.say(words)
    assert "hostile (127.0.0.1)" in await server.said("is out: ", reason)
    await offender.ended(crew)
    other = crew.client("--name", "other")
    await server.said("client other", "is in")
    assert _memory(server) < before + _GROWTH
    server.write(_IMAGE[5 * _BUFFER :])
    server.close_input()
    await ends(server, client, other)
    _check_whole(client, other)
    assert server.status == 0, server.errors


@on_the_reactor
async def test_one_byte_a_second(crew: Crew) -> None:
    """A hello, and later a message of a client that was let in, in no time that anyone waits."""
    server = crew.server(
        *_SMALL_BUFFERS,
        *("--spool", str(crew.folder), "--patience", "1", "--client-timeout", "4"),
        clients=2,
        stdin="pipe",
    )
    await server.said("waiting for clients")
    client = crew.client()
    await server.said("1 of 2")
    at_the_door = _offend(crew, b"")
    in_step = _offend(crew, Hello("hostile", 1 << 16).encode())
    server.write(_IMAGE[: 5 * _BUFFER])
    slow_words = {
        at_the_door: iter(_MEMBER),
        in_step: iter(Request(tuple(range(20))).encode(KOLLACAST)),
    }

    def drip() -> None:
        for offender, left in slow_words.items():
            if offender.transport is not None and not offender.is_closed:
                offender.say(bytes((next(left),)))

    dripping = LoopingCall(drip)
    dripping.start(1.0)
    try:
        await server.said("is no client", "no valid hello within 5 s")
        assert "hostile" in await server.said("is out: it has taken ", "of the others' time")
    finally:
        dripping.stop()
    await at_the_door.ended(crew)
    await in_step.ended(crew)
    other = crew.client("--name", "other")
    await server.said("client other", "is in")
    server.write(_IMAGE[5 * _BUFFER :])
    server.close_input()
    await ends(server, client, other)
    _check_whole(client, other)
    assert server.status == 0, server.errors


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    """Let this process hold the connections of a crowd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _SILENT + 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), max(hard, needed)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class _Crowd:
    """Connections that say nothing, from one address; they come as fast as they are accepted.

    What finds no room in the kernel's queue would never be seen by the server, nor see its end.
    """

    def __init__(self, port: int, size: int) -> None:
        self._port = port
        self._to_come = size
        self._poll = select.poll()
        self._open: dict[int, socket.socket] = {}
        self._waiting: set[int] = set()
        self.closed = 0

    def look(self) -> None:
        """Read what has come, see who was turned away, and let more come."""
        for fd, _ in self._poll.poll(0):
            self._waiting.discard(fd)
            try:
                data = self._open[fd].recv(65536)
            except OSError:
                data = b""
            if not data:
                self._poll.unregister(fd)
                self._open.pop(fd).close()
                self.closed += 1
        while self._to_come and len(self._waiting) < _AT_ONCE:
            self._to_come -= 1
            one = socket.socket()
            one.setblocking(False)
            one.bind((_CROWDED, 0))
            one.connect_ex((LOOPBACK, self._port))
            self._open[one.fileno()] = one
            self._waiting.add(one.fileno())
            self._poll.register(one, select.POLLIN)

    def leave(self) -> None:
        for one in self._open.values():
            one.close()


@pytest.mark.parametrize("descriptors", [None, 256])
@pytest.mark.usefixtures("_many_descriptors")
@on_the_reactor
async def test_ten_thousand_that_say_nothing(crew: Crew, descriptors: int | None) -> None:
    """Also where the server has far fewer descriptors than that."""
    prefix = () if descriptors is None else ("prlimit", f"--nofile={descriptors}")
    words = ("--spool", str(crew.folder), "--report", "report.json")
    server = crew.server(*_SMALL_BUFFERS, *words, clients=2, stdin="pipe", prefix=prefix)
    await server.said("waiting for clients")
    before = _memory(server)
    first = crew.client()
    await server.said("1 of 2")
    crowd = _Crowd(crew.port, _SILENT)
    looking = LoopingCall(crowd.look)
    looking.start(0.05)
    try:
        # In the midst of the crowd, and then beside it.
        second = crew.client()
        await server.said("2 of 2")
        server.write(_IMAGE[: 3 * _BUFFER])
        for client in (first, second):
            await client.gave(2 * _BUFFER)
        await crew.until(lambda: crowd.closed == _SILENT, "the end of all that say nothing")
    finally:
        looking.stop()
        crowd.leave()
    assert _memory(server) < before + _GROWTH
    server.write(_IMAGE[3 * _BUFFER :])
    server.close_input()
    await ends(server, first, second)
    _check_whole(first, second)
    assert server.status == 0, server.errors
    said = [line for line in server.lines if _CROWDED in line]
    assert any("no valid hello within 5 s" in line for line in said)
    assert any(f"connections a second from {_CROWDED}, none said hello" in line for line in said)
    # Ten thousand lines would be what they are after.
    assert len(said) < 200
    assert len(json.loads((crew.folder / "report.json").read_text())["clients"]) == 2
