"""Clients out of step, as real processes: killed, restarted, stopped, and served by TCP alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest_twisted

from kollacast.operator.outcome import Status
from tests.processes import Crew, ends, image_of, make_crew, names_in, on_the_reactor

crew = pytest_twisted.async_yield_fixture(make_crew)

_SIZE = 6_000_000
#: Slow enough to be cut off in the middle.
_SLOW = ("--rate", "20M", "--buffer-packets", "100")


def _kept(folder: Path, name: str) -> int:
    """Bytes that a client has written so far of the file `name`."""
    parts = [folder / part for part in names_in(folder) if part.startswith(f".{name}.")]
    return sum(part.stat().st_size for part in parts)


@on_the_reactor
async def test_unicast(crew: Crew) -> None:
    image = crew.file("image", image_of(_SIZE))
    server = crew.server("--unicast", "--report", "report.json", clients=2, stdin=image)
    clients = [crew.client("--output", f"copy{n}", "--name", f"host{n}") for n in range(2)]
    assert await ends(server, *clients) == [Status.OK] * 3
    for n in range(2):
        assert (crew.folder / f"copy{n}").read_bytes() == image.read_bytes()
    report = json.loads((crew.folder / "report.json").read_text())
    assert report["packets_multicast"] == 0


@on_the_reactor
async def test_a_server_that_is_killed_and_started_again(crew: Crew) -> None:
    image = crew.file("image", image_of(_SIZE))
    first = crew.server(*_SLOW, clients=2, stdin=image)
    clients = [crew.client("--output", f"copy{n}", "--name", f"host{n}") for n in range(2)]
    await crew.until(lambda: _kept(crew.folder, "copy0") > 0, "a part of the copy")
    await crew.until(lambda: _kept(crew.folder, "copy1") > 0, "a part of the other copy")
    first.send_signal(signal.SIGKILL)
    await first.end()
    again = crew.server(*_SLOW, "--report", "report.json", clients=2, stdin=image)
    assert await ends(again, *clients) == [Status.OK] * 3
    for n in range(2):
        assert (crew.folder / f"copy{n}").read_bytes() == image.read_bytes()
    assert names_in(crew.folder) == ["copy0", "copy1", "image", "report.json"]
    # What both had is not sent again, and what is sent is sent to both at once.
    report = json.loads((crew.folder / "report.json").read_text())
    assert 0 < report["packets_multicast"] < -(-_SIZE // 1460)
    assert [client["packets_fetched"] for client in report["clients"]] == [0, 0]


@on_the_reactor
async def test_a_client_that_is_killed_and_started_again(crew: Crew) -> None:
    image = crew.file("image", image_of(_SIZE))
    server = crew.server(*_SLOW, "--patience", "60", clients=2, stdin=image)
    steady = crew.client("--output", "copy0", "--name", "steady")
    killed = crew.client("--output", "copy1", "--name", "killed")
    await crew.until(lambda: _kept(crew.folder, "copy1") > 0, "a part of the copy")
    killed.send_signal(signal.SIGKILL)
    await killed.end()
    again = crew.client("--output", "copy1", "--name", "killed", "--report", "report.json")
    assert await ends(server, steady, again) == [Status.OK] * 3
    for n in range(2):
        assert (crew.folder / f"copy{n}").read_bytes() == image.read_bytes()
    report = json.loads((crew.folder / "report.json").read_text())
    assert 0 < report["bytes_resumed"] < _SIZE
    assert report["packets_fetched"] < _SIZE // 1460
    assert names_in(crew.folder) == ["copy0", "copy1", "image", "report.json"]


@on_the_reactor
async def test_a_client_that_is_stopped_and_goes_on(crew: Crew) -> None:
    image = crew.file("image", image_of(_SIZE))
    server = crew.server(*_SLOW, "--patience", "1", clients=2, stdin=image)
    steady = crew.client("--output", "copy0", "--name", "steady")
    stopped = crew.client("--output", "copy1", "--name", "stopped")
    await crew.until(lambda: _kept(crew.folder, "copy1") > 0, "a part of the copy")
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        await server.said("stopped", "goes on by itself")
        assert await steady.end() == Status.OK
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    assert await ends(server, stopped) == [Status.OK] * 2
    assert (crew.folder / "copy1").read_bytes() == image.read_bytes()


@on_the_reactor
async def test_a_late_client(crew: Crew) -> None:
    """It comes in the place of one that has left: what was before comes from the spool."""
    image = image_of(_SIZE)
    (crew.folder / "spool").mkdir()
    words = ("--spool", "spool", "--buffer-packets", "100")
    server = crew.server(*words, clients=2, stdin="pipe")
    steady = crew.client("--output", "copy0", "--name", "steady")
    leaver = crew.client("--output", "copy1", "--name", "leaver")
    server.write(image[: _SIZE // 2])
    await crew.until(lambda: _kept(crew.folder, "copy1") > 0, "a part of the copy")
    leaver.send_signal(signal.SIGTERM)
    assert await leaver.end() == -signal.SIGTERM
    late = crew.client("--output", "copy2", "--name", "late", "--report", "report.json")
    await server.said("client late", "is in")
    server.write(image[_SIZE // 2 :])
    server.close_input()
    assert await ends(server, steady, late) == [Status.OK] * 3
    for copy in ("copy0", "copy2"):
        assert (crew.folder / copy).read_bytes() == image
    report = json.loads((crew.folder / "report.json").read_text())
    multicast, fetched = report["packets_multicast"], report["packets_fetched"]
    # What was announced before it came is fetched, and nothing else.
    assert multicast > 0
    assert fetched > 0
    assert multicast + fetched + report["packets_repaired"] == -(-_SIZE // 1460)
    assert names_in(crew.folder / "spool") == []


@on_the_reactor
async def test_the_failsafe(crew: Crew) -> None:
    image = crew.file("image", image_of(_SIZE))
    server = crew.server(*_SLOW, "--failsafe", "registry.example:4000", stdin=image)
    await server.said("waiting for clients")
    words = ("--connect-timeout", "1", "--output", "copy", "--report", "report.json")
    client = crew.client(*words)
    await crew.until(lambda: _kept(crew.folder, "copy") > 0, "a part of the copy")
    server.send_signal(signal.SIGKILL)
    assert await client.end() == Status.FAILSAFE
    assert client.lines[-1].endswith("; the failsafe registry registry.example:4000 has the image")
    report = json.loads((crew.folder / "report.json").read_text())
    assert (report["exit_status"], report["failsafe"]) == (75, "registry.example:4000")
    assert not (crew.folder / "copy").exists()


@on_the_reactor
async def test_hosts_without_the_secret(crew: Crew) -> None:
    image = crew.file("image", image_of(100_000))
    for name, secret in (("token", b"a secret of this room"), ("wrong", b"a secret of another")):
        crew.file(name, secret).chmod(0o600)
    server = crew.server("--token-file", "token", stdin=image)
    await server.said("waiting for clients")
    visitor = crew.client("--token-file", "wrong", "--output", "stolen")
    assert await visitor.end() == Status.FAILED
    assert "does not know the shared secret" in visitor.lines[-1]
    visitor = crew.client("--output", "stolen")
    assert await visitor.end() == Status.FAILED
    assert "it speaks TLS: give --token-file" in visitor.lines[-1]
    await server.said("127.0.0.1 is no client: no TLS within 5 s")
    client = crew.client("--token-file", "token", "--output", "copy")
    assert await ends(server, client) == [Status.OK] * 2
    assert (crew.folder / "copy").read_bytes() == image.read_bytes()
    assert names_in(crew.folder) == ["copy", "image", "token", "wrong"]
