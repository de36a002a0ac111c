"""Hosts that stand still, do not read, or are full, and sessions side by side.

One bad host holds up nobody for longer than the patience, and however a process ends, it leaves
nothing behind but what a restarted client goes on from.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_twisted

from kollacast.operator.outcome import Status
from kollacast.wire.dialect import KOLLACAST
from kollacast.wire.greeting import Hello
from kollacast.wire.messages import Fetch
from kollacast.wire.structures import Tag
from tests.processes import Crew, ends, make_crew, on_the_reactor
from tests.transfer import PACKETS, SIZE, SLOW, Transfer, part_of, transfer

crew = pytest_twisted.async_yield_fixture(make_crew)

_MIB = 1024 * 1024

# Connects to the server argv[1] at port argv[2], sends what standard input brings, reads nothing.
_MUTE = """
import os, socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.connect((sys.argv[1], int(sys.argv[2])))
while data := os.read(0, 65536):
    s.sendall(data)
"""


@on_the_reactor
async def test_a_client_that_is_stopped_for_longer_than_the_patience(crew: Crew) -> None:
    async with transfer(crew, 3, "--patience", "1") as run:
        await run.reached(0.2)
        os.kill(run.clients[1].pid, signal.SIGSTOP)
        try:
            await run.server.said("client-1", "goes on by itself")
            await run.have_it([0, 2])
        finally:
            os.kill(run.clients[1].pid, signal.SIGCONT)
        await run.all_have_it()
        assert run.report("client-1")["packets_fetched"] > 0


@on_the_reactor
async def test_a_client_whose_output_nobody_reads_for_a_while(crew: Crew) -> None:
    async with transfer(
        crew, 2, "--patience", "1", expected=3, hosts=3, slow=("--rate", "40M")
    ) as run:
        slow = run.start_client(2, output="-")
        await slow.gave(1)
        slow.stop_reading()
        await run.have_it([0, 1])
        slow.read_on()
        assert await ends(slow, run.server) == [Status.OK] * 2
        assert slow.output == run.image


@pytest.mark.parametrize("what", ["barrier", "fetch"])
@on_the_reactor
async def test_a_client_that_does_not_read_its_connection(crew: Crew, what: str) -> None:
    """It is cut off, and named; what it has asked for is not held in memory for it."""
    words = ("--patience", "1", "--client-timeout", "6")
    async with transfer(crew, 2, *words, expected=3, hosts=3) as run:
        await run.server.said("is in: 2 of 3")
        mute = crew.start(
            [sys.executable, "-c", _MUTE, run.lab.server.address, str(crew.port)],
            "mute",
            host=run.lab.clients[2],
            stdin="pipe",
        )
        mute.write(Hello("mute", PACKETS, fetch=True, pull=what == "fetch").encode())
        await run.server.said("sending")
        if what == "barrier":
            mute.write(bytes((Tag.CLIENT_READY,)) * 3)
        else:
            mute.write(Fetch(0, PACKETS - 1).encode(KOLLACAST) * 16)
        await run.have_it([0, 1])
        assert run.server.peak_memory() < 64 * _MIB
        assert await run.server.end() == Status.PARTIAL, run.server.errors
        assert "mute" in run.server.lines[-1]
        mute.close_input()
        await mute.end()


@contextmanager
def _small_disk(path: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes at `path`, in memory."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


@on_the_reactor
async def test_a_full_disk(crew: Crew) -> None:
    """No other source would help that host, so it does not name the failsafe."""
    async with transfer(crew, 2, "--failsafe", "registry:4000", expected=3, hosts=3) as run:
        full = crew.folder / "full"
        with _small_disk(full, _MIB):
            client = run.start_client(2, output="full/copy")
            assert await client.end() == Status.FAILED
            assert "cannot write the image: No space left on device" in client.lines[-1]
            assert os.listdir(full) == []
        await run.have_it([0, 1])
        assert await run.server.end() == Status.PARTIAL
        assert "client-2" in run.server.lines[-1]
        assert "No space left on device" in run.server.lines[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("who", ["server", "client"])
@on_the_reactor
async def test_an_end_by_signal(crew: Crew, who: str, number: signal.Signals) -> None:
    """The peers learn of it at once, and the clients keep their part for another run."""
    lost = (0, 1) if who == "server" else (0,)
    async with transfer(crew, 2, parts_of=lost) as run:
        await run.reached(0.2)
        (run.server if who == "server" else run.clients[0]).send_signal(number)
        if who == "client":
            await run.have_it([1])
            assert await ends(run.clients[0], run.server) == [-number, Status.PARTIAL]
        else:
            assert await ends(run.server, *run.clients) == [-number, *[Status.FAILED] * 2]
            for client in run.clients:
                assert "the server gave up" in client.lines[-1]
        for index in lost:
            assert len(part_of(crew.folder, index)) == 1


@on_the_reactor
async def test_a_server_with_a_spool_that_is_killed(crew: Crew) -> None:
    """Its spool is gone with it."""
    spool = ("--spool", str(crew.folder / "tmp"))
    async with transfer(crew, 1, *spool, piped=True, parts_of=(0,)) as run:
        run.server.write(run.image[: SIZE // 2])
        await run.reached(0.2)
        run.server.send_signal(signal.SIGKILL)
        assert await run.server.end() == -signal.SIGKILL
        await run.clients[0].said("the connection to the server is lost")
        run.clients[0].send_signal(signal.SIGTERM)
        assert await run.clients[0].end() == -signal.SIGTERM


@on_the_reactor
async def test_two_servers_on_one_host(crew: Crew) -> None:
    """With the same group, and each with clients on the same hosts as the other's."""
    folder = crew.folder / "other"
    folder.mkdir()
    other_crew = Crew(crew.reactor, folder)
    try:
        async with transfer(crew, 2) as run:
            run.may_have("other")
            other = Transfer(other_crew, run.lab, run.image[::-1])
            other.start_server(*SLOW, clients=2)
            for index in range(2):
                other.start_client(index)
            await other.reached(0.2)
            await run.reached(0.2)
            await run.all_have_it()
            await other.all_have_it()
            other.assert_nothing_is_left()
    finally:
        await other_crew.dismiss()
