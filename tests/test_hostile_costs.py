"""What somebody who means ill costs a real server, in processor time and in memory.

The attacks are as fast as one core can make them.
"""

from __future__ import annotations

import os
import signal
import sys

import psutil
import pytest_twisted
from twisted.internet.task import deferLater

from tests.processes import LOOPBACK, Crew, Program, ends, image_of, make_crew, on_the_reactor

crew = pytest_twisted.async_yield_fixture(make_crew)

_IMAGE = image_of(30_000_000)
_RATE = ("--rate", "160M")
#: The part of a core that an attack may cost, and the seconds for which that is measured.
_SHARE = 0.1
_MEASURED_S = 3.0
_GROWTH = 64 << 20
#: Where the attacks come from: also an address of the loopback interface.
_ATTACKER = "127.0.0.66"

# Connects to argv[1] at port argv[2] and resets the connection, time and again.
_RESETS = """
import socket, struct, sys
linger = struct.pack("ii", 1, 0)
while True:
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    s.bind(("127.0.0.66", 0))
    s.setblocking(False)
    s.connect_ex((sys.argv[1], int(sys.argv[2])))
    s.close()
"""

# The same, and has sent the beginning of the longest hello; keeps as many as it can.
_UNFINISHED = """
import resource, select, socket, struct, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 12000), hard))
kept = []
hello = struct.pack("!I", int(sys.argv[3])) + b" " * (int(sys.argv[3]) - 1)
for number in range(10000):
    s = socket.socket()
    s.bind((f"127.0.{number % 200 + 1}.66", 0))
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
        s.sendall(hello)
        kept.append(s)
    except OSError:
        s.close()
print("all have come", flush=True)
while True:
    time.sleep(60)
"""


async def _transfer(crew: Crew, server: Program) -> None:
    """Bring the image to the one host that the server waits for."""
    client = crew.client("--output", "copy")
    await ends(server, client)
    assert client.status == 0, client.errors
    assert server.status == 0, server.errors
    assert (crew.folder / "copy").read_bytes() == _IMAGE


def _serve(crew: Crew) -> Program:
    crew.file("image", _IMAGE)
    return crew.server(*_RATE, "--input", "image")


def _attack(crew: Crew, script: str, *words: str) -> Program:
    argv = [sys.executable, "-c", script, LOOPBACK, str(crew.port), *words]
    return crew.start(argv, "attacker")


@on_the_reactor
async def test_connections_that_are_reset(crew: Crew) -> None:
    """They took the whole core when each had its greeting, and a line of the log."""
    server = _serve(crew)
    await server.said("waiting for clients")
    attacker = _attack(crew, _RESETS)
    await server.said(f"connections a second from {_ATTACKER}, none said hello")
    process = psutil.Process(server.pid)
    before = process.cpu_times()
    await deferLater(crew.reactor, _MEASURED_S)
    after = process.cpu_times()
    used_s = after.user + after.system - before.user - before.system
    assert used_s < _SHARE * _MEASURED_S
    await _transfer(crew, server)
    os.kill(attacker.pid, signal.SIGKILL)
    assert len([line for line in server.lines if _ATTACKER in line]) < 150


@on_the_reactor
async def test_hellos_that_are_never_finished(crew: Crew) -> None:
    """Ten thousand, from two hundred addresses."""
    server = _serve(crew)
    await server.said("waiting for clients")
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    peak = 0

    def has_ended() -> bool:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        return b"all have come" in attacker.output

    attacker = _attack(crew, _UNFINISHED, str(4096))
    await crew.until(has_ended, "the last one")
    assert peak < before + _GROWTH
    await _transfer(crew, server)
    os.kill(attacker.pid, signal.SIGKILL)
