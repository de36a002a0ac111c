"""Clients out of step, as real processes: killed, restarted, stopped, and served by TCP alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest_twisted

from kollacast.outcome import Status
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
    again = crew.server(*_SLOW, clients=2, stdin=image)
    assert await ends(again, *clients) == [Status.OK] * 3
    for n in range(2):
        assert (crew.folder / f"copy{n}").read_bytes() == image.read_bytes()
        assert "fetched" in clients[n].errors
    assert names_in(crew.folder) == ["copy0", "copy1", "image"]


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
