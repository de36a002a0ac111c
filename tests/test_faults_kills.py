"""SIGKILL of one client, of half of them, of the server, in every state of a transfer.

Who is left has the image, and nothing else is left but what the killed clients can go on from.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_twisted

from kollacast.operator.outcome import Status
from tests.processes import Crew, Program, ends, make_crew, on_the_reactor
from tests.transfer import PACKET, SIZE, Transfer, part_of, transfer

crew = pytest_twisted.async_yield_fixture(make_crew)

_WORDS = {
    "accept": ("--rate", "40M"),
    "multicast": ("--rate", "20M", "--buffer-packets", "100"),
    "repair": ("--rate", "20M", "--buffer-packets", "100"),
    # All of the image is in flight at once, and its end only behind the one who is held up.
    "end": ("--rate", "40M", "--buffer-packets", "1000", "--window", "2"),
}
in_each_state = pytest.mark.parametrize("state", list(_WORDS))
#: What the last client hears before it is held up: buffers of 100 packets, but not one of 1000.
_HELD_UP_AFTER_BYTES = 300_000


@asynccontextmanager
async def _transfer_in(
    crew: Crew, state: str, clients: int, patience_s: int, lost: tuple[int, ...] = ()
) -> AsyncIterator[Transfer]:
    """A transfer that is in this state until the block ends; clients `lost` are not to have it.

    - accept: all clients but the last are in.
    - multicast: every client has a part of the image, and the last is held up, which holds up all.
    - repair: likewise, and half of all packets are lost, so that there is always one on its way
      for the second time.
    - end: all clients but the last have all of the image, and do not know that it is all.
    """
    last = clients - 1
    others = range(last)
    waits = state == "accept"
    async with transfer(
        crew,
        last,
        *("--patience", str(patience_s)),
        expected=clients,
        hosts=clients,
        slow=_WORDS[state],
        loss=0.5 if state == "repair" else 0.0,
        parts_of=() if waits else lost,
    ) as run:
        await run.server.said(f"is in: {last} of {clients}")
        if waits:
            yield run
            run.start_client(last)
        else:
            with run.lab.cut_off(run.lab.clients[last], _HELD_UP_AFTER_BYTES):
                pid = run.start_client(last).pid
                await run.reached(1 if state == "end" else 0.2, others)
                os.kill(pid, signal.SIGSTOP)
            try:
                yield run
            finally:
                os.kill(pid, signal.SIGCONT)
        if lost and not waits:
            await run.have_it([n for n in range(clients) if n not in lost])
            assert await run.server.end() == Status.PARTIAL, run.server.errors
        else:
            await run.all_have_it()


async def _kill(*programs: Program) -> None:
    for program in programs:
        program.send_signal(signal.SIGKILL)
    assert await ends(*programs) == [-signal.SIGKILL] * len(programs)


@in_each_state
@on_the_reactor
async def test_one_client_that_is_started_again(crew: Crew, state: str) -> None:
    async with _transfer_in(crew, state, 3, patience_s=20) as run:
        await _kill(run.clients[0])
        run.start_client(0)
    report = run.report("client-0")
    if state == "accept":
        assert report["bytes_resumed"] == 0
    elif state == "end":
        assert report["bytes_resumed"] == SIZE // PACKET * PACKET
    else:
        assert 0 < report["bytes_resumed"] < SIZE


@in_each_state
@on_the_reactor
async def test_half_of_the_clients(crew: Crew, state: str) -> None:
    async with _transfer_in(crew, state, 4, patience_s=4, lost=(0, 1)) as run:
        await _kill(*run.clients[:2])
        if state == "accept":
            # Nothing has begun: their places are free again.
            for index in (0, 1):
                run.start_client(index)
    if state != "accept":
        verified = {entry["name"]: entry["verified"] for entry in run.report("server")["clients"]}
        assert verified == {f"client-{n}": n > 1 for n in range(4)}
        for name in ("client-0", "client-1"):
            assert name in run.server.lines[-1]


@in_each_state
@on_the_reactor
async def test_the_server_that_is_started_again(crew: Crew, state: str) -> None:
    async with _transfer_in(crew, state, 3, patience_s=20) as run:
        await _kill(run.server)
        run.start_server(*_WORDS[state], clients=3)
    for index in range(3):
        assert run.report(f"client-{index}")["bytes"] == SIZE


@on_the_reactor
async def test_the_server_for_good(crew: Crew) -> None:
    """Its clients look for it, and then name the registry; what they have stays for another run."""
    words = ("--failsafe", "registry.example:4000")
    async with transfer(crew, 0, *words, expected=2, hosts=2, parts_of=(0, 1)) as run:
        await run.server.said("waiting for clients")
        for index in range(2):
            run.start_client(index, "--connect-timeout", "2")
        await run.reached(0.2)
        await _kill(run.server)
        assert await ends(*run.clients) == [Status.FAILSAFE] * 2
    for index, client in enumerate(run.clients):
        assert client.lines[-1].endswith(
            "the failsafe registry registry.example:4000 has the image"
        )
        report = run.report(f"client-{index}")
        assert report["failsafe"] == "registry.example:4000"
        assert len(part_of(crew.folder, index)) == 1
