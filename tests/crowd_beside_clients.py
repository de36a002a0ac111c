"""Simulated hosts beside as many real clients: the server may see no difference but by chance.

``make check-crowd`` runs it, on a machine that has nothing else to do: where a host is late with
what it asks for, because others hold the processor, that comes by TCP.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from bench.contenders.crowd import IMAGE_PACKETS
from lab import Lab
from tests.processes import Crew, ends, image_of, make_crew, on_the_reactor

crew = pytest_twisted.async_yield_fixture(make_crew)

#: Standard deviations that chance is given.
_SIGMAS = 6


@contextmanager
def _lab(clients: int, **traffic: Any) -> Iterator[Lab]:
    reason = Lab.available()
    if reason:
        pytest.skip(reason)
    with Lab(clients, prefix=f"kt-{os.getpid()}-", **traffic) as lab:
        yield lab


_LOSS = 0.05
#: How many hosts, and bytes of the image that is enough for them.
_CASES = ((4, 8_000_001), (16, 4_000_001))
_RATE_BPS = 1_000_000_000
#: What the server paces to, so that no host has so much to do that it is late.
_PACE = "100M"
#: On a busy machine hosts are late at times.
_TRIES = 10

_Run = Callable[[Crew, int, list[str]], Awaitable[dict[str, int]]]


async def _of_clients(crew: Crew, hosts: int, words: list[str]) -> dict[str, int]:
    """What so many real clients have lost, decoded and been sent by TCP."""
    with _lab(hosts, loss=_LOSS, rate_bps=_RATE_BPS, own_frames=True) as lab:
        server = crew.server(*words, clients=hosts, host=lab.server, local_ip=lab.server.address)
        clients = [
            crew.client(
                *("--output", f"copy-{number}", "--report", f"{number}.json"),
                host=host,
                local_ip=host.address,
                server_ip=lab.server.address,
            )
            for number, host in enumerate(lab.clients)
        ]
        assert await ends(server, *clients) == [0] * (1 + hosts), server.errors
    reports = [json.loads((crew.folder / f"{n}.json").read_text()) for n in range(hosts)]
    repaired = sum(report["packets_repaired"] for report in reports)
    decoded = sum(report["packets_decoded"] for report in reports)
    return {"lost": repaired, "decoded": decoded, "retransmitted": repaired - decoded}


async def _of_a_crowd(crew: Crew, hosts: int, words: list[str]) -> dict[str, int]:
    """The same of as many simulated ones."""
    with _lab(1, rate_bps=_RATE_BPS) as lab:
        (host,) = lab.clients
        lab.block_multicast(host, of=IMAGE_PACKETS)
        address = lab.server.address
        server = crew.server(*words, clients=hosts, host=lab.server, local_ip=address)
        argv = [sys.executable, "-m", "bench.crowd", host.address, address, str(hosts)]
        more = ["--port", str(crew.port), "--loss", str(_LOSS), "--seed", str(os.getpid())]
        crowd = crew.start([*argv, *more, "--report", "crowd.json"], "crowd", host=host)
        assert await ends(server, crowd) == [0, 0], server.errors + crowd.errors
    report: dict[str, int] = json.loads((crew.folder / "crowd.json").read_text())
    assert (report["hosts"], report["verified"], report["detached"]) == (hosts, hosts, 0)
    assert report["coded_packets"] == _read(crew.folder / "server.json")["packets_coded"]
    assert report["image_packets"] == 0
    assert report["decoded"] + report["retransmitted"] == report["lost"]
    return report


def _read(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    return report


async def _undisturbed(run: _Run, crew: Crew, hosts: int, words: list[str]) -> dict[str, int]:
    """A run in which no host was late: what is asked for late comes by TCP, whoever asks."""
    for _ in range(_TRIES):
        figures = await run(crew, hosts, words)
        figures["coded"] = _read(crew.folder / "server.json")["packets_coded"]
        if figures["retransmitted"] - _LOSS * figures["lost"] < _by_chance(figures["lost"], _LOSS):
            break
    return figures


def _by_chance(draws: float, share: float) -> float:
    """How far the number of hits may be from what is expected."""
    return _SIGMAS * math.sqrt(draws * share * (1 - share))


@on_the_reactor
@pytest.mark.parametrize(("hosts", "size"), _CASES)
async def test_simulated_hosts_cost_what_clients_do(crew: Crew, hosts: int, size: int) -> None:
    """They ask for as much, are sent as much by multicast again, and as much by TCP."""
    image = image_of(size)
    packets = -(-len(image) // 1460)
    words = ["--input", str(crew.file("image", image)), "--report", "server.json", "--rate", _PACE]
    # What simulated hosts are told is all that they know.
    words += ["--digest", "tree"]
    clients = await _undisturbed(_of_clients, crew, hosts, words)
    crowd = await _undisturbed(_of_a_crowd, crew, hosts, words)
    for figures in (clients, crowd):
        lost = figures["lost"]
        assert abs(lost - _LOSS * hosts * packets) < _by_chance(hosts * packets, _LOSS), figures
        # What is asked for after the coded repairs is what a host has lost of these, or less where
        # there were more of them than it needed.
        by_tcp = figures["retransmitted"]
        assert by_tcp - _LOSS * lost < _by_chance(lost, _LOSS), figures
        assert by_tcp + figures["decoded"] == lost
    chance = math.sqrt(2) * _by_chance(clients["lost"], _LOSS)
    assert abs(clients["retransmitted"] - crowd["retransmitted"]) < chance, (clients, crowd)
    # There are about as many as the host needs that has lost most.
    chance = math.sqrt(2) * _by_chance(packets, _LOSS)
    assert abs(clients["coded"] - crowd["coded"]) < chance, (clients, crowd)
