"""What goes wrong ends in one clear line, the right exit status, and nothing half written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.protocols import portforward
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.processes import (
    LOOPBACK,
    Crew,
    Program,
    ends,
    image_of,
    make_crew,
    names_in,
    on_the_reactor,
)

crew = pytest_twisted.async_yield_fixture(make_crew)

_ABSENT_IP = "192.0.2.7"  # reserved for documentation: no interface has it
_BUFFER = 20 * 1460
_SMALL_BUFFERS = ("--buffer-packets", "20")
_OLDER = b"an older image"


def _check(program: Program, status: int, *texts: str) -> None:
    """The process ended with `status`, and its last line says why."""
    assert program.status == status, program.errors
    assert "Traceback" not in program.errors
    for text in texts:
        assert text in program.lines[-1]
    for line in program.lines:
        assert line.startswith(f"kollacast-{program.name}: "), program.errors


class _Destination:
    """A folder with an older file in the place where the image is to go."""

    def __init__(self, crew: Crew, name: str = "destination") -> None:
        self.folder = crew.folder / name
        self.folder.mkdir()
        self.path = self.folder / "copy"
        self.path.write_bytes(_OLDER)
        self.words = ("--output", str(self.path))

    def is_untouched(self) -> bool:
        """Whether the older file is all there is."""
        return names_in(self.folder) == ["copy"] and self.path.read_bytes() == _OLDER

    def is_kept(self) -> bool:
        """Whether what has come lies beside the older file, for the next run to go on from."""
        hidden, name = names_in(self.folder)
        is_part = hidden.startswith(".copy.") and hidden.endswith("-kept.part")
        return is_part and name == "copy" and self.path.read_bytes() == _OLDER

    def is_receiving(self, client: Program) -> bool:
        """Whether part of the image lies there, open at the client under another name or none."""
        return client.writes_in(self.folder) > 0


# What the command line, or what it names, has wrong.


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("nonsense 1", "local_ip 'nonsense': must be an IPv4 address, as in 10.0.0.1"),
        ("::1 1", "local_ip '::1': must be an IPv4 address, as in 10.0.0.1"),
        (
            f"{_ABSENT_IP} 1",
            f"local_ip {_ABSENT_IP}: no network interface of this host has this address;"
            " `ip -br -4 address` lists those that have one",
        ),
        (
            f"{LOOPBACK} 1 --group 10.1.1.1",
            "--group '10.1.1.1': must be a multicast address, 224.0.0.0 to 239.255.255.255",
        ),
        (f"{LOOPBACK} 1 0", "port '0': must be a whole number from 1 to 65535"),
        (f"{LOOPBACK} 1 65536", "port '65536': must be a whole number from 1 to 65535"),
        (f"{LOOPBACK} 1 http", "port 'http': must be a whole number from 1 to 65535"),
        (f"{LOOPBACK} 0", "number_of_clients '0': must be a whole number from 1 to 65535"),
        (f"{LOOPBACK} -3", "number_of_clients '-3': must be a whole number from 1 to 65535"),
        (f"{LOOPBACK} four", "number_of_clients 'four': must be a whole number from 1 to 65535"),
        (f"{LOOPBACK} 1 --mtu 143", "--mtu '143': must be a whole number from 144 to 65535"),
        (
            f"{LOOPBACK} 1 --dialect jasmine --mtu 9000",
            "--mtu 9000: a jasmine client takes datagrams of up to 1500 bytes",
        ),
        (f"{LOOPBACK}", "expected <local_ip> <number_of_clients> [port], got 1 argument"),
        (
            f"{LOOPBACK} 1 --input missing",
            "--input missing: cannot be read: No such file or directory",
        ),
        (f"{LOOPBACK} 1 --input .", "--input .: cannot be read: Is a directory"),
        (
            f"{LOOPBACK} 1 --report missing/report",
            "--report missing/report: cannot be written: No such file or directory",
        ),
    ],
)
@on_the_reactor
async def test_command_line_of_the_server(crew: Crew, words: str, line: str) -> None:
    source = crew.file("image", b"image")
    server = crew.twistd("kollacast-server", *words.split(), stdin=source)
    await server.end()
    assert server.lines == [f"kollacast-server: {line}"]
    _check(server, 2)
    assert server.output == b""
    assert names_in(crew.folder) == ["image"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (f"300.1.1.1 {LOOPBACK}", "local_ip '300.1.1.1': must be an IPv4 address, as in 10.0.0.1"),
        (
            f"{_ABSENT_IP} {LOOPBACK}",
            f"local_ip {_ABSENT_IP}: no network interface of this host has this address;"
            " `ip -br -4 address` lists those that have one",
        ),
        (
            f"{LOOPBACK} 239.1.1.1",
            "server_ip '239.1.1.1': must be the address of one host",
        ),
        (f"{LOOPBACK} {LOOPBACK} 70000", "port '70000': must be a whole number from 1 to 65535"),
        (
            f"{LOOPBACK} {LOOPBACK} --output missing/copy",
            "--output missing/copy: cannot be written: No such file or directory",
        ),
        (
            f"{LOOPBACK} {LOOPBACK} --output .",
            "--output .: cannot be written: Is a directory",
        ),
        (
            f"{LOOPBACK} {LOOPBACK} --output copy --report copy",
            "--report {folder}/copy: is the file of --output",
        ),
    ],
)
@on_the_reactor
async def test_command_line_of_the_client(crew: Crew, words: str, line: str) -> None:
    client = crew.twistd("kollacast-client", *words.split())
    await client.end()
    assert client.lines == [f"kollacast-client: {line.format(folder=crew.folder)}"]
    _check(client, 2)
    assert client.output == b""
    assert names_in(crew.folder) == []


@on_the_reactor
async def test_input_that_breaks_off(crew: Crew) -> None:
    """Standard input is a connection, and is reset in mid-transfer."""
    destination = _Destination(crew)
    with socket.create_server((LOOPBACK, 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with theirs:
        server = crew.server(*_SMALL_BUFFERS, stdin=theirs.fileno())
    with ours:
        client = crew.client(*destination.words)
        ours.sendall(bytes(2 * _BUFFER))
        await crew.until(lambda: destination.is_receiving(client), "the first bytes of the image")
        # Closing without waiting for anything is a reset.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await ends(server, client)
    _check(server, 1, "cannot read the image: Connection reset by peer")
    _check(client, 1, "the server gave up: cannot read the image: Connection reset by peer")
    assert destination.is_untouched()


# Where the image is to go.


def _needs_own_mounts() -> None:
    """Skip a test that needs a file system of its own, where there may be none."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own needs root")
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("not installed: unshare")
    if subprocess.run([unshare, "-m", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces cannot be made here")


def _with_mounts(script: str) -> tuple[str, ...]:
    """The beginning of a command that runs in `script`, as "$@", with mounts of its own."""
    return ("unshare", "-m", "sh", "-c", script, "sh")


@on_the_reactor
async def test_output_folder_that_is_not_writable(crew: Crew) -> None:
    _needs_own_mounts()
    destination = _Destination(crew)
    folder = destination.folder
    mount = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
    client = crew.client(*destination.words, prefix=_with_mounts(f'{mount} && exec "$@"'))
    await client.end()
    assert client.lines == [
        f"kollacast-client: --output {destination.path}: cannot be written: Read-only file system"
    ]
    _check(client, 2)
    assert destination.is_untouched()


@on_the_reactor
async def test_output_folder_that_runs_full(crew: Crew) -> None:
    _needs_own_mounts()
    crew.file("older", _OLDER)
    mount = "mkdir small && mount -t tmpfs -o size=1m none small && cp older small/copy"
    look = "status=$?; ls -A small >listing; cmp older small/copy && exit $status"
    client = crew.client(
        *("--output", "small/copy", "--name", "full", "--reserve", "0"),
        prefix=_with_mounts(f'{mount} && "$@"; {look}'),
    )
    other = crew.client("--name", "other")
    image = image_of(3_000_000)
    server = crew.server("--input", str(crew.file("image", image)), *_SMALL_BUFFERS, clients=2)
    await ends(server, client, other)
    _check(client, 1, "cannot write the image: No space left on device")
    assert (crew.folder / "listing").read_text() == "copy\n"
    _check(
        server,
        4,
        "1 of 2 clients have the image; without: full (127.0.0.1):"
        " cannot write the image: No space left on device",
    )
    _check(other, 0)
    assert other.output == image


@on_the_reactor
async def test_broken_pipe_on_standard_output(crew: Crew) -> None:
    server = crew.server(*_SMALL_BUFFERS, stdin="pipe")
    client = crew.client("--name", "cut")
    server.write(bytes(3 * _BUFFER))
    await client.gave(2 * _BUFFER)
    client.close_output()
    server.write(bytes(3 * _BUFFER))
    server.close_input()
    await ends(server, client)
    _check(client, 1, "cannot write the image: nothing reads standard output any more")
    _check(server, 1, "no client is left; without: cut (127.0.0.1): cannot write the image:")


# Who is there, and who is not.


@on_the_reactor
async def test_port_in_use(crew: Crew) -> None:
    source = crew.file("image", b"image")
    port = crew.reactor.listenTCP(crew.port, Factory())
    try:
        server = crew.server(stdin=source)
        await server.end()
    finally:
        await port.stopListening()
    _check(server, 1, f"cannot listen on {LOOPBACK} port {crew.port}: Address already in use")


@on_the_reactor
async def test_a_server_listens_where_it_is_told(crew: Crew) -> None:
    """At its own address, and at no other one of its host unless that is asked for."""
    image = crew.file("image", b"image")
    elsewhere = "127.0.0.2"
    server = crew.server("--input", str(image))
    stray = crew.client("--name", "stray", "--connect-timeout", "1", server_ip=elsewhere)
    await stray.end()
    _check(stray, 1, f"no server at {elsewhere} port {crew.port} within 1 s: Connection refused")
    client = crew.client("--name", "near")
    assert await ends(server, client) == [0, 0]
    server = crew.server("--input", str(image), "--listen", "0.0.0.0")
    client = crew.client("--name", "far", server_ip=elsewhere)
    assert await ends(server, client) == [0, 0]


@on_the_reactor
async def test_port_in_use_at_a_client(crew: Crew) -> None:
    """Another program has its UDP port: it has the image by TCP."""
    source = crew.file("image", b"image")
    destination = _Destination(crew)
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("", crew.port))
        server = crew.server(stdin=source)
        client = crew.client(*destination.words)
        assert await ends(client, server) == [0, 0], client.errors
    assert "Address already in use: another program has this UDP port" in client.errors


@on_the_reactor
async def test_no_server_within_the_timeout(crew: Crew) -> None:
    destination = _Destination(crew)
    client = crew.client(*destination.words, "--connect-timeout", "0.5")
    await client.end()
    _check(client, 1, f"no server at {LOOPBACK} port {crew.port} within 0.5 s: Connection refused")
    assert destination.is_untouched()


@on_the_reactor
async def test_server_that_comes_later(crew: Crew) -> None:
    client = crew.client()
    await client.said("connecting")
    server = crew.server("--input", str(crew.file("image", b"image")))
    assert await ends(server, client) == [0, 0]
    assert client.output == b"image"


class _Hasty(Protocol):
    """A web server that does not wait for a question."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("speaks", "no kollacast or jasmine server"),
        ("closes", "within 3 s: what answers there closes the connection"),
        ("is silent", "has not said a word within 10 s: it is a jasmine server in the middle"),
    ],
    ids=["speaks", "closes", "is silent"],
)
@on_the_reactor
async def test_web_server_in_the_place_of_the_server(crew: Crew, kind: str, text: str) -> None:
    destination = _Destination(crew)
    factory: Any = Factory.forProtocol(_Hasty)
    if kind != "speaks":
        factory = Site(Resource(), timeout=0.5 if kind == "closes" else None)
    port = crew.reactor.listenTCP(crew.port, factory, interface=LOOPBACK)
    try:
        client = crew.client(*destination.words, "--connect-timeout", "3")
        await client.end()
    finally:
        await port.stopListening()
    _check(client, 1, f"{LOOPBACK} port {crew.port}", text)
    assert destination.is_untouched()


@on_the_reactor
async def test_too_few_clients(crew: Crew) -> None:
    destination = _Destination(crew)
    early = crew.client("--name", "early", *destination.words)
    bird = crew.client("--name", "bird")
    await early.said("connecting")
    await bird.said("connecting")
    words = ("--accept-timeout", "4", "--report", "server.json")
    server = crew.server("--input", str(crew.file("image", b"image")), *words, clients=3)
    await ends(server, early, bird)
    _check(server, 1, "2 of 3 clients came within 4 s: ", "early (127.0.0.1)", "bird (127.0.0.1)")
    for client in (early, bird):
        _check(client, 1, "the server gave up: 2 of 3 clients came within 4 s: ")
    assert destination.is_untouched()
    report = json.loads((crew.folder / "server.json").read_text())
    assert sorted(client["name"] for client in report["clients"]) == ["bird", "early"]


@on_the_reactor
async def test_nobody_comes(crew: Crew) -> None:
    server = crew.server(
        "--input", str(crew.file("image", b"image")), "--accept-timeout", "0.2", clients=3
    )
    await server.end()
    _check(server, 1, "0 of 3 clients came within 0.2 s")


@on_the_reactor
async def test_client_that_comes_too_late(crew: Crew) -> None:
    destination = _Destination(crew)
    server = crew.server(*_SMALL_BUFFERS, stdin="pipe")
    client = crew.client()
    server.write(bytes(2 * _BUFFER))
    await client.gave(1)
    late = crew.client(*destination.words)
    await late.end()
    _check(late, 1, "the server refuses this client: the session has begun without this client")
    assert destination.is_untouched()
    server.close_input()
    assert await ends(server, client) == [0, 0]
    assert client.output == bytes(2 * _BUFFER)


class _Silent(Protocol):
    """Connects, says `words`, and waits for its end."""

    def __init__(self, words: bytes) -> None:
        self.connected_to_server: Deferred[None] = Deferred()
        self.is_closed = False
        self._words = words

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._words)
        self.connected_to_server.callback(None)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.is_closed = True


class _SilentFactory(ClientFactory):
    noisy = False

    def __init__(self, visitor: _Silent) -> None:
        self._visitor = visitor

    def buildProtocol(self, addr: IAddress | None) -> _Silent:
        return self._visitor


@on_the_reactor
async def test_connections_without_a_hello(crew: Crew) -> None:
    """Whoever says no valid hello takes nobody's place and is turned away; the work goes on."""
    server = crew.server(*_SMALL_BUFFERS, "--report", "server.json", clients=2, stdin="pipe")
    await server.said("waiting for clients")
    unidentified = [
        _Silent(b""),
        _Silent(b"\0\0"),
        _Silent(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        _Silent(b"\0\0\0\x06[1, 2]"),
        _Silent(bytes(range(256)) * 100),
    ]
    for visitor in unidentified:
        crew.reactor.connectTCP(LOOPBACK, crew.port, _SilentFactory(visitor))
        await visitor.connected_to_server
    clients = [crew.client() for _ in range(2)]
    image = image_of(4 * _BUFFER)
    server.write(image[: 2 * _BUFFER])
    for client in clients:
        await client.gave(2 * _BUFFER)
    await crew.until(
        lambda: all(visitor.is_closed for visitor in unidentified), "the end of all without a hello"
    )
    server.write(image[2 * _BUFFER :])
    server.close_input()
    assert await ends(server, *clients) == [0, 0, 0]
    for client in clients:
        assert client.output == image
    report = json.loads((crew.folder / "server.json").read_text())
    assert len(report["clients"]) == 2
    silent = [line for line in server.lines if "no valid hello within 5 s" in line]
    assert len(silent) == 2


# Between the two ends.


class _Meddler(portforward.ProxyFactory):
    """Stands between a client and the server; `meddle` changes what the server says."""

    noisy = False

    def __init__(self, crew: Crew, meddle: Callable[[bytes], bytes]) -> None:
        super().__init__(LOOPBACK, crew.port)
        self.protocol = _MeddlingServer
        self.meddle = meddle
        self._port = crew.reactor.listenTCP(0, self, interface=LOOPBACK)
        self.entrance: int = self._port.getHost().port

    async def stop(self) -> None:
        await self._port.stopListening()


class _MeddlingClient(portforward.ProxyClient):
    def dataReceived(self, data: bytes) -> None:
        server: Any = self.peer
        super().dataReceived(server.factory.meddle(data))


class _MeddlingClientFactory(portforward.ProxyClientFactory):
    noisy = False
    protocol = _MeddlingClient


class _MeddlingServer(portforward.ProxyServer):
    clientProtocolFactory = _MeddlingClientFactory


@on_the_reactor
async def test_digest_that_does_not_match(crew: Crew) -> None:
    image = image_of(100_000)
    right = hashlib.sha256(image).digest()
    wrong = right[::-1]
    meddler = _Meddler(crew, lambda data: data.replace(right, wrong))
    destination = _Destination(crew)
    try:
        server = crew.server("--input", str(crew.file("image", image)), clients=2)
        cheated = crew.client(*destination.words, "--name", "cheated", port=meddler.entrance)
        honest = crew.client("--name", "honest")
        await ends(server, cheated, honest)
    finally:
        await meddler.stop()
    line = f"the image is not the server's: its sha256 is {right.hex()}, the server's {wrong.hex()}"
    _check(cheated, 1, line)
    assert destination.is_untouched()
    _check(server, 4, "1 of 2 clients have the image; without: cheated (127.0.0.1): ", line)
    _check(honest, 0)


# Interrupted.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@on_the_reactor
async def test_client_interrupted_while_it_connects(crew: Crew, number: int) -> None:
    destination = _Destination(crew)
    client = crew.client(*destination.words)
    await client.said("connecting")
    client.send_signal(number)
    await client.end()
    _check(client, -number, "interrupted")
    assert destination.is_untouched()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@on_the_reactor
async def test_client_interrupted_while_it_waits_for_others(crew: Crew, number: int) -> None:
    """Its place is free again."""
    destination = _Destination(crew)
    source = crew.file("image", image_of(_BUFFER))
    server = crew.server("--input", str(source), clients=2)
    client = crew.client(*destination.words, "--name", "gone")
    await server.said("gone", "is in: 1 of 2")
    client.send_signal(number)
    await client.end()
    _check(client, -number, "interrupted")
    assert destination.is_untouched()
    await server.said("gone (127.0.0.1) is out: interrupted")
    others = [crew.client() for _ in range(2)]
    assert await ends(server, *others) == [0, 0, 0]
    for other in others:
        assert other.output == source.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@on_the_reactor
async def test_server_interrupted_while_it_waits(crew: Crew, number: int) -> None:
    destination = _Destination(crew)
    source = crew.file("image", image_of(_BUFFER))
    server = crew.server("--input", str(source), "--report", "server.json", clients=2)
    await server.said("waiting for clients")
    client = crew.client(*destination.words, "--connect-timeout", "1")
    await server.said("is in: 1 of 2")
    server.send_signal(number)
    await ends(server, client)
    _check(server, -number, "interrupted")
    lost = f"the connection was lost, and no server at {LOOPBACK} port {crew.port} within 1 s"
    _check(client, 1, f"{lost}: Connection refused")
    assert destination.is_untouched()
    assert json.loads((crew.folder / "server.json").read_text())["exit_status"] == 1


async def _begin_transfer(crew: Crew, destination: _Destination) -> tuple[Program, Program]:
    """A server and a client in the middle of an image, which its pipe holds back."""
    server = crew.server(*_SMALL_BUFFERS, stdin="pipe")
    client = crew.client(*destination.words)
    server.write(image_of(5 * _BUFFER + 1))
    await crew.until(lambda: destination.is_receiving(client), "the first bytes of the image")
    return server, client


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@on_the_reactor
async def test_client_interrupted_in_mid_transfer(crew: Crew, number: int) -> None:
    destination = _Destination(crew)
    server, client = await _begin_transfer(crew, destination)
    client.send_signal(number)
    await ends(server, client)
    _check(client, -number, "interrupted")
    _check(server, 1, "no client is left; without: ", ": interrupted")
    assert destination.is_untouched()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@on_the_reactor
async def test_server_interrupted_in_mid_transfer(crew: Crew, number: int) -> None:
    destination = _Destination(crew)
    server, client = await _begin_transfer(crew, destination)
    server.send_signal(number)
    await ends(server, client)
    _check(server, -number, "interrupted")
    _check(client, 1, "the server gave up: interrupted")
    assert destination.is_untouched()


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@on_the_reactor
async def test_interrupted_at_the_end(crew: Crew, number: int, side: str) -> None:
    """The image is through, and its digest is held back."""
    image = image_of(100_000)
    digest = hashlib.sha256(image).digest()
    held = []

    def hold(data: bytes) -> bytes:
        if digest not in data:
            return data
        held.append(True)
        return data[: data.index(digest) - 1]

    meddler = _Meddler(crew, hold)
    destination = _Destination(crew)
    try:
        server = crew.server("--input", str(crew.file("image", image)))
        client = crew.client(*destination.words, port=meddler.entrance)
        await crew.until(lambda: bool(held), "the digest")
        await crew.until(lambda: client.writes_in(destination.folder) == len(image), "the image")
        (server if side == "server" else client).send_signal(number)
        await ends(server, client)
    finally:
        await meddler.stop()
    if side == "server":
        _check(server, -number, "interrupted")
        _check(client, 1, "the server gave up: interrupted")
    else:
        _check(server, 1, "no client is left; without: ", ": interrupted")
        _check(client, -number, "interrupted")
    assert destination.is_kept()


@on_the_reactor
async def test_client_interrupted_while_nobody_reads_its_output(crew: Crew) -> None:
    image = image_of(60 * _BUFFER)  # more than a pipe and the window can hold
    server = crew.server("--input", str(crew.file("image", image)), *_SMALL_BUFFERS)
    client = crew.client()
    client.stop_reading()
    await client.said("receiving")
    client.send_signal(signal.SIGTERM)
    await server.end()
    client.read_on()
    await client.end()
    _check(client, -signal.SIGTERM, "interrupted")
    _check(server, 1, "no client is left; without: ", ": interrupted")
    assert image.startswith(client.output)
    assert len(client.output) < len(image)


@on_the_reactor
async def test_client_killed_in_mid_transfer(crew: Crew) -> None:
    server = crew.server(*_SMALL_BUFFERS, "--report", "server.json", clients=3, stdin="pipe")
    clients = [crew.client("--name", name) for name in ("first", "second")]
    victim = crew.client("--name", "victim")
    image = image_of(6 * _BUFFER)
    server.write(image[: 3 * _BUFFER])
    for client in (*clients, victim):
        await client.gave(1)
    victim.send_signal(signal.SIGKILL)
    await victim.end()
    server.write(image[3 * _BUFFER :])
    server.close_input()
    await ends(server, *clients)
    _check(server, 4, "2 of 3 clients have the image; without: victim (127.0.0.1): the connection")
    for client in clients:
        _check(client, 0)
        assert client.output == image
    report = json.loads((crew.folder / "server.json").read_text())
    verified: dict[str, Any] = {c["name"]: c["verified"] for c in report["clients"]}
    assert verified == {"first": True, "second": True, "victim": False}


@on_the_reactor
async def test_client_killed_before_anything_could_be_resumed(crew: Crew) -> None:
    """It had the image from a pipe, so what it has is of no use: it is gone with the process."""
    destination = _Destination(crew)
    server, client = await _begin_transfer(crew, destination)
    client.send_signal(signal.SIGKILL)
    await ends(server, client)
    assert destination.is_untouched()


@on_the_reactor
async def test_server_killed_in_mid_transfer(crew: Crew) -> None:
    destination = _Destination(crew)
    server, client = await _begin_transfer(crew, destination)
    server.send_signal(signal.SIGKILL)
    await ends(server, client)
    _check(client, 1, "the server closed the connection before the image was complete")
    assert destination.is_untouched()
