"""A client and a server whose every message a test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.python.failure import Failure

from kollacast.wire.checksum import best_crc32c
from kollacast.wire.dialect import KOLLACAST, Dialect
from kollacast.wire.greeting import Greeting, Hello
from kollacast.wire.messages import (
    Ask,
    BufferCtl,
    Control,
    Credit,
    Digest,
    Done,
    Message,
    Notice,
    Ready,
    Report,
    Request,
    Sent,
    encode_sealed,
)
from kollacast.wire.packets import PacketCodec
from kollacast.wire.parser import ClientStream, ServerStream
from tests.simulation.fabric import Fabric, Host
from tests.simulation.settings import BUFFER_PACKETS, GROUP, MTU, PORT, SERVER_IP
from tests.simulation.tcp import MemoryTransport

_T = TypeVar("_T")


def _report(**fields: Any) -> bytes:
    return Report(fields).encode(KOLLACAST)


class RawConnection(Protocol):
    """One end of a connection; ``heard`` is what the other end has said."""

    transport: MemoryTransport

    def __init__(self, network: Fabric, stream: ClientStream | ServerStream) -> None:
        self._network = network
        self._stream = stream
        self.heard: list[Message] = []
        self.data = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        for message in self._stream.feed(data):
            self.heard.append(message)
            self._consider(message)

    def _consider(self, message: Message) -> None:
        """A message has come, which the test may look for in ``heard``."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason

    def send(self, data: bytes) -> None:
        """Say ``data``, and let happen what comes of it."""
        self.transport.write(data)
        self._network.settle()


class _Once(ClientFactory):
    """A factory of one protocol, already made."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._protocol


class RawClient(RawConnection):
    """A client on ``host`` whose every message a test says; it begins to connect at once."""

    _stream: ServerStream

    def __init__(
        self, host: Host, dialect: Dialect = KOLLACAST, tree: Callable[[], str] = str
    ) -> None:
        stream = ServerStream()
        stream.capacity = 65535
        super().__init__(host.network, stream)
        self.host = host
        self._dialect = dialect
        # The digest by which it shows that it has the image.
        self._tree = tree
        # What it has said to have, and to have room for; None before the first announcement.
        self.credit: Credit | None = None
        self._early_digest: Digest | None = None
        self._answers: set[type] = set()
        self._unanswered: list[Message] = []
        host.connectTCP(SERVER_IP, PORT, _Once(self))

    def mumble(self, data: bytes) -> None:
        """Say ``data``, if there is somebody to hear it, and close."""
        if self.transport is not None:
            self.transport.write(data)
            self.transport.loseConnection()

    def hello(self, name: str = "raw", packets: int = 1 << 20, room: int = 0) -> None:
        self.send(Hello(name, packets, room=room).encode())

    def ready(self) -> None:
        self._answered(BufferCtl)
        self.send(self._ready())

    def done(self) -> None:
        self._answered(Sent)
        self.send(self._done())

    def expect_packets(self, count: int) -> None:
        """So many packets will come without a tag."""
        if not self._dialect.tagged:
            self._stream.expect_packets(count)

    def request(self, *seqs: int) -> None:
        self.expect_packets(len(seqs))
        self.send(Request(seqs).encode(self._dialect))

    def report(self, **fields: Any) -> None:
        self.send(_report(**{"tree": self._tree(), **(fields or {"ok": True})}))

    def close(self) -> None:
        self.transport.loseConnection()
        self._network.settle()

    def count(self, kind: type) -> int:
        """How many messages of this kind have been heard."""
        return sum(isinstance(message, kind) for message in self.heard)

    def last(self, kind: type[_T]) -> _T:
        return [message for message in self.heard if isinstance(message, kind)][-1]

    def answer(self, *kinds: type) -> None:
        """Answer messages of these kinds from now on, and those that still wait for it.

        READY, DONE, or credit for one more, and the report are the answers to a
        ``BufferCtl``, to ``Sent`` and to a ``Digest``; whether packets have come is
        not asked.
        """
        self._answers.update(kinds)
        unanswered, self._unanswered = self._unanswered, []
        for message in unanswered:
            self._consider(message)
        self._network.settle()

    def answer_no_more(self, kind: type) -> None:
        self._answers.discard(kind)

    def _ready(self) -> bytes:
        if not self._dialect.multicasts_control:
            return Ready().encode(self._dialect)
        assert self.credit is not None
        self.credit = replace(self.credit, room=self.credit.room + 1)
        return self.credit.encode(self._dialect)

    def _done(self) -> bytes:
        if not self._dialect.multicasts_control:
            return Done().encode(self._dialect)
        assert self.credit is not None
        self.credit = replace(self.credit, done=self.credit.done + 1)
        return self.credit.encode(self._dialect)

    def _answered(self, kind: type) -> None:
        for message in self._unanswered:
            if isinstance(message, kind):
                self._unanswered.remove(message)
                return

    def _consider(self, message: Message) -> None:
        if isinstance(message, Control):
            # It hears no multicast, and asks for each part of the control stream.
            self.heard.remove(message)
            for notice in message.notices:
                self.heard.append(notice)
                self._consider(notice)
            known = message.first + len(message.notices) - 1
            self.transport.write(Ask(known).encode(self._dialect))
            return
        if isinstance(message, BufferCtl) and self.credit is None:
            self.credit = Credit(message.buffer_id - 1, message.buffer_id - 1)
        if isinstance(message, Digest) and self.count(Sent) < self.count(BufferCtl):
            # It has overtaken the word of the end, for which this client had to ask.
            self.heard.remove(message)
            self._early_digest = message
            return
        if type(message) not in self._answers:
            self._unanswered.append(message)
        elif isinstance(message, BufferCtl):
            self.transport.write(self._ready())
        elif isinstance(message, Sent):
            self.transport.write(self._done())
        elif isinstance(message, Digest):
            self.transport.write(_report(ok=True, tree=self._tree()))
        if isinstance(message, Sent) and self._early_digest is not None:
            digest, self._early_digest = self._early_digest, None
            self.heard.append(digest)
            self._consider(digest)


class _Accepted(RawConnection):
    """A client's connection at a server: closed once it has reported, unless a test says no."""

    closes = True

    def _consider(self, message: Message) -> None:
        if isinstance(message, Ask):
            # All is told by TCP, as soon as a test says it.
            self.heard.remove(message)
        if self.closes and isinstance(message, Report) and message.fields["ok"]:
            self.transport.loseConnection()


class RawServer(Factory):
    """A server whose every message a test says, to the connection that came last."""

    noisy = False

    def __init__(self, network: Fabric, dialect: Dialect) -> None:
        self._network = network
        self._dialect = dialect
        self.connections: list[_Accepted] = []
        self.closes_at_once = False
        self.salt = 0x5EED
        # How many notices, and SENTs among them, the connection that came last has been told of.
        self._told = self._sent = 0
        self.group = (GROUP, PORT)

    def buildProtocol(self, addr: Any) -> _Accepted | None:
        if self.closes_at_once:
            return None
        stream = ClientStream(self._dialect, 1 << 20)
        self._told = self._sent = 0
        self.connections.append(_Accepted(self._network, stream))
        return self.connections[-1]

    @property
    def client(self) -> _Accepted:
        return self.connections[-1]

    def send(self, data: bytes) -> None:
        """Say ``data`` to that connection, and let happen what comes of it."""
        self.client.send(data)

    def greet(self, **fields: Any) -> None:
        """Send a greeting, with these ``fields`` in place of the usual ones."""
        greeting = Greeting(
            session="5e55104",
            salt=self.salt,
            group=GROUP,
            port=PORT,
            mtu=MTU,
            buffer_packets=BUFFER_PACKETS,
            window=2,
            digest="sha256",
        )
        self.send(replace(greeting, **fields).encode())

    def announce(self, buffer_id: int, size: int, base: int, count: int) -> None:
        self.tell(BufferCtl(buffer_id, size, base, count))

    def sent(self) -> None:
        self._sent += 1
        self.tell(Sent(self._sent, 1) if self._dialect.multicasts_control else Sent())

    def end(self, base: int) -> None:
        """Say to who fetches that the image ends before seq ``base``."""
        self.send(BufferCtl(1, 0, base, 0).encode(self._dialect))

    def tell(self, notice: Notice) -> None:
        """Say what is told to all clients."""
        self.send(self.told(notice))

    def told(self, *notices: Notice) -> bytes:
        """The same as bytes: where the dialect numbers them, they are the next ones."""
        if not self._dialect.multicasts_control:
            return b"".join(notice.encode(self._dialect) for notice in notices)
        first = self._told + 1
        self._told += len(notices)
        return Control(1, first, notices).encode(self._dialect)

    def digest(self, value: bytes) -> None:
        self.send(Digest(value).encode(self._dialect))

    def report(self, reason: str) -> None:
        self.send(_report(ok=False, reason=reason))

    @property
    def codec(self) -> PacketCodec:
        return self._dialect.codec(self.salt, best_crc32c()[0])

    def packet(self, seq: int, payload: bytes) -> bytes:
        """A packet as it is multicast."""
        return self.codec.sealed(seq, [memoryview(payload)]) + payload

    def repair(self, seq: int, payload: bytes) -> None:
        """Send a packet again, over TCP."""
        payloads = [memoryview(payload)]
        headers = self.codec.sealed(seq, payloads)
        self.send(encode_sealed(self._dialect, headers, [0], payloads))

    def multicast(self, *packets: bytes) -> None:
        for packet in packets:
            self._network.multicast(self.group, packet)
        self._network.settle()
