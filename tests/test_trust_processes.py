"""Who is let in, and by whom, as real processes: each mistake is one line at each end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest_twisted
from twisted.internet.protocol import ClientFactory, Factory, Protocol

from kollacast.operator.outcome import Status
from kollacast.transport import tls
from kollacast.wire.greeting import Challenge, Greeting, GroupInfo
from tests.identities import Authority, put
from tests.processes import (
    LOOPBACK,
    Crew,
    Program,
    ends,
    free_port,
    image_of,
    make_crew,
    names_in,
    on_the_reactor,
)

crew = pytest_twisted.async_yield_fixture(make_crew)

_SECRET = b"a secret of this room"
#: What nobody should act on.
_FORGED = Greeting(
    "s", 1, "239.1.1.1", 4000, 1500, 4, 2, "sha256", fetch=True, image="ab", name="forged",
    failsafe="evil.example:4000", proof="00" * 32,
).encode()  # fmt: skip


def _lines(program: Program) -> list[str]:
    """What it has said beside its progress."""
    return [line for line in program.lines if "connecting: 0 B" not in line]


def _failed(client: Program, line: str, status: Status = Status.FAILED) -> None:
    assert client.status == status, client.errors
    assert _lines(client) == [f"kollacast-client: {line}"]


def _token(crew: Crew) -> tuple[str, str]:
    crew.file("token", _SECRET).chmod(0o600)
    return ("--token-file", "token")


@on_the_reactor
async def test_certificates(crew: Crew) -> None:
    image = crew.file("image", image_of(300_000))
    authority, other = Authority(), Authority()
    for name, certificates in {
        "installer": authority.certificates("installer", LOOPBACK),
        "elsewhere": authority.certificates("installer", "192.0.2.7"),
        "host": authority.certificates("host-1"),
        "stranger": other.certificates("host-1"),
        "forger": authority.certificates("host-1", by=other),
        "old": authority.certificates("host-1", age_days=11),
    }.items():
        put(crew.folder / name, certificates)
    hosts = crew.file("hosts", b"host-1  # the only one\n")
    server = crew.server("--tls-dir", "installer", "--expect-hosts", str(hosts), stdin=image)
    await server.said("0/1 clients")
    stranger = crew.client("--tls-dir", "stranger", "--output", "stolen")
    old = crew.client("--tls-dir", "old", "--output", "stolen")
    forger = crew.client("--tls-dir", "forger", "--output", "stolen")
    await ends(stranger, old, forger)
    where = f"{LOOPBACK} port {crew.port}"
    _failed(stranger, f"{where}: its certificate is not from the authority in --tls-dir")
    _failed(old, "--tls-dir old: cert.pem: has expired", Status.USAGE)
    _failed(forger, "--tls-dir forger: cert.pem: is not from the authority in ca.pem", Status.USAGE)
    client = crew.client("--tls-dir", "host", "--output", "copy", "--name", "somebody")
    assert await ends(server, client) == [Status.OK] * 2
    assert (crew.folder / "copy").read_bytes() == image.read_bytes()
    assert not (crew.folder / "stolen").exists()
    refused = "is no client: it says that the certificate here is not from the authority in its"
    assert [line for line in server.lines if "is no client" in line] == [
        f"kollacast-server: {LOOPBACK} {refused} --tls-dir"
    ]
    await server.said("client host-1 (127.0.0.1) is in: 1 of 1")

    crew.port = free_port()
    elsewhere = crew.server("--tls-dir", "elsewhere", stdin=image)
    await elsewhere.said("0/1 clients")
    client = crew.client("--tls-dir", "host", "--output", "stolen")
    await client.end()
    why = "its certificate is not for the address or name that this host was told to call"
    _failed(client, f"{LOOPBACK} port {crew.port}: {why}")
    await elsewhere.said("calls another address than this end's certificate names")


@on_the_reactor
async def test_one_end_without_tls(crew: Crew) -> None:
    image = crew.file("image", image_of(1000))
    token = _token(crew)
    server, plain_port = crew.server(*token, stdin=image), free_port()
    await server.said("0/1 clients")
    client = crew.client("--output", "copy")
    secure_port, crew.port = crew.port, plain_port
    plain = crew.server(stdin=image)
    await plain.said("0/1 clients")
    secure = crew.client(*token, "--output", "copy")
    await secure.end()
    why = "it speaks without TLS and so does not prove who it is"
    _failed(secure, f"{LOOPBACK} port {plain_port}: {why}")
    await plain.said("it speaks TLS, and this end does not: both have --token-file or --tls-dir")
    await client.end()
    assert _lines(client)[1:] == [
        "kollacast-client: the server refuses this client: it speaks TLS: give --token-file or"
        " --tls-dir, as to the server"
    ]
    await server.said(f"{LOOPBACK} is no client: no TLS within 5 s")
    # Neither has harmed who knows better.
    good = crew.client(*token, "--output", "copy", port=secure_port)
    assert await ends(server, good) == [Status.OK] * 2


@on_the_reactor
async def test_a_relay(crew: Crew) -> None:
    image = crew.file("image", image_of(1000))
    token = _token(crew)
    server = crew.server(*token, stdin=image)
    await server.said("0/1 clients")
    with _listening(crew, tls.server_side(None, _Relay(crew), crew.reactor)) as port:
        client = crew.client(*token, "--output", "copy", port=port)
        await client.end()
        why = "it does not know the shared secret, or somebody relays what it says"
        _failed(client, f"the server refuses this client: {why}")
        await server.said(f"{LOOPBACK} is refused: {why}")
    good = crew.client(*token, "--output", "copy")
    assert await ends(server, good) == [Status.OK] * 2


@on_the_reactor
async def test_servers_that_cannot_prove_themselves(crew: Crew) -> None:
    """To a host that has a part of an image already: nothing of it is touched."""
    token = _token(crew)
    challenge = Challenge("hmac-sha256", "00").encode()
    jasmine = GroupInfo("224.238.0.31", 18383).encode()
    for factory, why in (
        (
            tls.server_side(None, _Saying(challenge, _FORGED), crew.reactor),
            "the server does not know the shared secret, or somebody relays what it says",
        ),
        (
            tls.server_side(None, _Saying(_FORGED), crew.reactor),
            "the server does not ask for the shared secret, and so does not prove it",
        ),
        (
            _Saying(jasmine),
            "{}: it speaks jasmine, which has no TLS, and so does not prove who it is",
        ),
    ):
        folder = crew.folder / "destination"
        folder.mkdir(exist_ok=True)
        part = folder / ".copy.0123456789abcdef-kept.part"
        part.write_bytes(b"a part")
        with _listening(crew, factory) as port:
            client = crew.client(*token, "--output", str(folder / "copy"), port=port)
            await client.end()
            _failed(client, why.format(f"{LOOPBACK} port {port}"))
        assert names_in(folder) == [part.name]


@contextmanager
def _listening(crew: Crew, factory: Any) -> Iterator[int]:
    port = free_port()
    listening = crew.reactor.listenTCP(port, factory, interface=LOOPBACK)
    try:
        yield port
    finally:
        listening.stopListening()


class _Half(Protocol):
    """One half of a relay, which says what the other one hears."""

    def __init__(self) -> None:
        self.other: _Half | None = None
        self._waiting = b""

    def connectionMade(self) -> None:
        self._hand_on()

    def dataReceived(self, data: bytes) -> None:
        assert self.other is not None
        self.other._waiting += data
        self.other._hand_on()

    def connectionLost(self, reason: Any = None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.loseConnection()

    def _hand_on(self) -> None:
        if self.transport is not None:
            self.transport.write(self._waiting)
            self._waiting = b""


class _Once(ClientFactory):
    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._protocol


class _Relay(Factory):
    """Takes clients in the server's place, and is a client to the server for each."""

    noisy = False

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def buildProtocol(self, addr: Any) -> Protocol:
        here, there = _Half(), _Half()
        here.other, there.other = there, here
        reactor = self._crew.reactor
        secured = tls.client_side(None, LOOPBACK, reactor)(_Once(there))
        reactor.connectTCP(LOOPBACK, self._crew.port, secured)
        return here


class _SayingConnection(Protocol):
    def __init__(self, *words: bytes) -> None:
        self._words = list(words)

    def connectionMade(self) -> None:
        self.dataReceived(b"")

    def dataReceived(self, data: bytes) -> None:
        if self._words:
            self.transport.write(self._words.pop(0))  # type: ignore[union-attr]

    def spoke_plainly(self, data: bytes) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]


class _Saying(Factory):
    """A server that says this, one thing after another, whatever it hears."""

    noisy = False

    def __init__(self, *words: bytes) -> None:
        self._words = words

    def buildProtocol(self, addr: Any) -> Protocol:
        return _SayingConnection(*self._words)
