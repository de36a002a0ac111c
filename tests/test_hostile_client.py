"""Real clients that have come to a server that means ill: each leaves with one line and no file."""

from __future__ import annotations

import struct

import pytest_twisted
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall

from kollacast.wire.dialect import JASMINE, KOLLACAST
from kollacast.wire.greeting import PROTOCOL_VERSION, Greeting, GroupInfo, encode_json
from kollacast.wire.messages import BufferCtl, Control, Notice, Sent
from kollacast.wire.structures import MAX_JSON_SIZE
from tests.processes import LOOPBACK, Crew, free_port, make_crew, names_in, on_the_reactor

crew = pytest_twisted.async_yield_fixture(make_crew)

#: Address space that a client gets: who believed in 4 GiB would end with a traceback.
_ADDRESS_SPACE = 2 << 30

_GREETING = Greeting(
    session="5e55104",
    salt=7,
    group="239.238.0.31",
    port=free_port(),
    mtu=1500,
    buffer_packets=20,
    window=4,
    digest="sha256",
).encode()
_GROUP_INFO = GroupInfo("224.238.0.31", free_port()).encode()
_BUFFER = BufferCtl(1, 20 * 1460, 0, 20)
_HUGE = BufferCtl(1, 0xFFFFFFFF, 0, 10**9)


def _brackets() -> bytes:
    return struct.pack("!I", MAX_JSON_SIZE) + b"[" * MAX_JSON_SIZE


def _told(*notices: Notice) -> bytes:
    return Control(1, 1, notices).encode(KOLLACAST)


#: What the server says, and what the client's last line says of it.
_CASES = [
    (b"KCST\xff\xff\xff\xff", "4294967295 bytes of JSON are announced"),
    (b"KCST" + _brackets(), "JSON cannot be read"),
    (b"KCST" + encode_json({"version": PROTOCOL_VERSION, "mtu": 10**30}), "mtu is not a number"),
    (_GREETING + struct.pack("!B3I", 0x20, 0, 0, 0xFFFFFFFF), "a packet of 4294967295 bytes"),
    (_GREETING + _told(_HUGE), "a buffer of 1000000000 packets is announced"),
    (_GREETING + _told(*[_BUFFER] * 100), "a buffer is announced that begins with seq 0"),
    (_GREETING + b"\x08", "begins with the byte 0x08"),
    (
        _GREETING + _told(_BUFFER, Sent(1, 20), Sent(2, 20)),
        "SENT for a buffer that was not announced",
    ),
    (_GREETING + b"\x40" + bytes(32), "the digest comes before the image"),
    (_GREETING + b"\xff", "begins with the byte 0xff"),
    (_GREETING + b"\x80" + _brackets(), "JSON cannot be read"),
    (_GROUP_INFO + _HUGE.encode(JASMINE), "a buffer of 1000000000 packets is announced"),
    (_GROUP_INFO + BufferCtl(1, 1460, 0, 1).encode(JASMINE) + b"\xff", "where SENT is due"),
]


class _Server(Protocol):
    """Says `words` at once, or one byte of them a second."""

    def __init__(self, words: bytes, slowly: bool) -> None:
        self._words = words
        self._slowly = slowly

    def connectionMade(self) -> None:
        transport = self.transport
        assert transport is not None
        if not self._slowly:
            transport.write(self._words)
            return
        left = iter(self._words)
        self._dripping = LoopingCall(lambda: transport.write(bytes((next(left),))))
        self._dripping.start(1.0)

    def connectionLost(self, reason: object = None) -> None:
        if self._slowly:
            self._dripping.stop()


class _ServerFactory(Factory):
    noisy = False

    def __init__(self, words: bytes, *, slowly: bool) -> None:
        self._arguments = (words, slowly)

    def buildProtocol(self, addr: object) -> _Server:
        return _Server(*self._arguments)


@on_the_reactor
async def test_whatever_the_server_says(crew: Crew) -> None:
    cases = [(words, text, False) for words, text in _CASES]
    cases.append((_GREETING, "it has not greeted within 10 s", True))
    clients = []
    ports = []
    try:
        for number, (words, _, slowly) in enumerate(cases):
            factory = _ServerFactory(words, slowly=slowly)
            ports.append(crew.reactor.listenTCP(0, factory, interface=LOOPBACK))
            folder = crew.folder / str(number)
            folder.mkdir()
            clients.append(
                crew.client(
                    *("--output", str(folder / "image")),
                    port=ports[-1].getHost().port,
                    prefix=("prlimit", f"--as={_ADDRESS_SPACE}"),
                )
            )
        for number, (client, (_, text, _)) in enumerate(zip(clients, cases, strict=True)):
            assert await client.end() == 1, client.errors
            assert text in client.lines[-1], client.errors
            assert "Traceback" not in client.errors
            assert names_in(crew.folder / str(number)) == [], client.errors
    finally:
        for port in ports:
            await port.stopListening()
