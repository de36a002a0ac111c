"""Terminals that the two commands draw on, and that go away: real processes on real terminals."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from kollacast.operator.outcome import Status
from tests.processes import Crew, ends, image_of, make_crew, on_the_reactor
from tests.terminal import Terminal

crew = pytest_twisted.async_yield_fixture(make_crew)

#: A run of about a second and a half: a look at it is twice a second.
_SIZE = 3_000_000
_RATE = ("--rate", "16M", "--window", "1", "--buffer-packets", "50")
_XTERM = {"TERM": "xterm-256color", "NO_COLOR": ""}


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.hang_up()


@pytest.mark.parametrize("columns", [80, 44])
@on_the_reactor
async def test_a_server_and_its_hosts(crew: Crew, terminal: Terminal, columns: int) -> None:
    """Also in a terminal that becomes narrower."""
    image = image_of(_SIZE)
    source = crew.file("image", image)
    words = ("--input", str(source), *_RATE)
    server = crew.server(*words, clients=3, stderr=terminal.theirs, env=_XTERM)
    await crew.until(lambda: terminal.has_shown("0 of 3 hosts"), "the terminal")
    terminal.resize(columns, 24)
    clients = [crew.client("--name", f"host-{number}") for number in range(2)]
    clients.append(crew.client("--name", "full", stdout="/dev/full"))
    assert await ends(server, *clients) == [Status.PARTIAL, 0, 0, Status.FAILED]
    await crew.until(lambda: terminal.has_shown("2 of 3 clients"), "the last line")
    lines = terminal.emulator.all
    # Each line of the log is there, once and whole, and the view as it was in the end.
    # Where a line goes on in the next one, spaces at its end are not seen.
    said = "".join("".join(lines).split())
    for name in ("host-0", "host-1", "full"):
        assert said.count(f"kollacast-server:client{name}(127.0.0.1)isin:") == 1, lines
    assert said.count("kollacast-server:clientfull(127.0.0.1)isout:cannotwrite") == 1, lines
    for line in lines:
        assert line.count("kollacast-server: ") + bool(re.search("[━╸╺]", line)) <= 1, line
    view = [line for line in lines if re.search(r" of 3 hosts: ", line)]
    whole = "3 of 3 hosts: 2 verified, 1 failed; 0.0 % lost, 0 repaired"
    assert view == [whole if columns > len(whole) else whole[: columns - 2] + "…"], lines
    # In between it has shown the run, with its hosts.
    assert terminal.has_shown("sending  ━")
    assert terminal.has_shown("  host-0 (")
    assert terminal.has_shown("  receiving")
    for client in clients[:2]:
        assert client.output == image


@on_the_reactor
async def test_a_client_has_one_line(crew: Crew, terminal: Terminal) -> None:
    image = image_of(_SIZE)
    server = crew.server("--input", str(crew.file("image", image)), *_RATE)
    client = crew.client("--output", "copy", stderr=terminal.theirs, env=_XTERM)
    assert await ends(server, client) == [0, 0]
    await crew.until(lambda: terminal.has_shown("the image is here"), "the last line")
    drawn = [screen for screen in terminal.screens if re.search("━", "\n".join(screen))]
    assert drawn
    for screen in drawn:
        assert sum("━" in line for line in screen) == 1, screen
    assert (crew.folder / "copy").read_bytes() == image


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": ""}])
@on_the_reactor
async def test_a_terminal_that_can_only_write_on(
    crew: Crew, terminal: Terminal, environment: dict[str, str]
) -> None:
    server = crew.server("--input", str(crew.file("image", image_of(50_000))))
    words = ("--progress", "bar", "--output", "copy")
    client = crew.client(*words, stderr=terminal.theirs, env=environment)
    assert await ends(server, client) == [0, 0]
    await crew.until(lambda: terminal.has_shown("the image is here"), "the last line")
    assert "kollacast-client: connecting: 0 B, 0 repaired" in terminal.emulator.all


@on_the_reactor
async def test_a_terminal_that_goes_away(crew: Crew, terminal: Terminal) -> None:
    """Nobody is told anything any more, and the run goes on."""
    image = image_of(_SIZE)
    words = ("--input", str(crew.file("image", image)), *_RATE)
    server = crew.server(*words, stderr=terminal.theirs, env=_XTERM)
    client = crew.client("--output", "copy")
    await crew.until(lambda: terminal.has_shown("sending  ━"), "the terminal")
    terminal.hang_up()
    assert await ends(server, client) == [0, 0]
    assert (crew.folder / "copy").read_bytes() == image


@on_the_reactor
async def test_a_terminal_that_is_stopped(crew: Crew, terminal: Terminal) -> None:
    """Whoever reads it at leisure (Ctrl-S) does not hold up hosts."""
    image = image_of(_SIZE)
    words = ("--input", str(crew.file("image", image)), *_RATE)
    server = crew.server(*words, stderr=terminal.theirs, env=_XTERM)
    await crew.until(lambda: terminal.has_shown("0 of 1 hosts"), "the terminal")
    terminal.stop()
    client = crew.client("--output", "copy")
    assert await ends(server, client) == [0, 0]
    assert (crew.folder / "copy").read_bytes() == image


@on_the_reactor
async def test_standard_error_that_nobody_reads(crew: Crew) -> None:
    ours, theirs = os.pipe()
    try:
        os.set_blocking(theirs, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(theirs, bytes(4096)):
                pass
        os.set_blocking(theirs, True)
        server = crew.server("--input", str(crew.file("image", image_of(_SIZE))), stderr=theirs)
        client = crew.client("--output", "copy")
        assert await ends(server, client) == [0, 0]
    finally:
        os.close(ours)
        os.close(theirs)


@on_the_reactor
async def test_a_hangup_is_an_end_that_peers_are_told_of(crew: Crew) -> None:
    """A terminal that goes away takes its foreground processes with it, by this signal."""
    words = ("--input", str(crew.file("image", image_of(30_000_000))), "--rate", "16M")
    server = crew.server(*words, clients=2)
    clients = [crew.client("--output", "copy"), crew.client("--output", "other")]
    await server.said("sending: ")
    clients[1].send_signal(signal.SIGHUP)
    assert await clients[1].end() == -signal.SIGHUP
    await server.said("is out: interrupted")
    server.send_signal(signal.SIGHUP)
    assert await server.end() == -signal.SIGHUP
    assert server.lines[-1].startswith("kollacast-server: interrupted")
    assert await clients[0].end() == Status.FAILED
    assert clients[0].lines[-1] == "kollacast-client: the server gave up: interrupted"


@on_the_reactor
async def test_a_hangup_under_nohup(crew: Crew) -> None:
    image = image_of(_SIZE)
    words = ("--input", str(crew.file("image", image)), *_RATE)
    server = crew.server(*words, prefix=("nohup",))
    client = crew.client("--output", "copy", prefix=("nohup",))
    await server.said("sending: ")
    for program in (server, client):
        program.send_signal(signal.SIGHUP)
    assert await ends(server, client) == [0, 0]
    assert (crew.folder / "copy").read_bytes() == image


def test_nothing_is_loaded_that_is_not_needed(tmp_path: Path) -> None:
    """What draws takes its time to load, and most runs draw nothing."""
    code = (
        "import sys; from kollacast.command import server, client; import kollacast.server,"
        " kollacast.client; print([name for name in sys.modules if name.split('.')[0] == 'rich'])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "[]\n"
