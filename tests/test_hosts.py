"""The two commands on hosts of their own: network namespaces, joined by a switch that loses."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from lab import Host, Lab
from tests.processes import PATIENCE_S, Crew, Program, ends, image_of, make_crew, on_the_reactor
from tests.transfer import assert_hosts_are_idle

crew = pytest_twisted.async_yield_fixture(make_crew)

_MIB = 1024 * 1024
_PACKET = 1460
#: The most packets that a link which coalesces carries as one: of 1472 bytes, in 64 KiB.
_COALESCED = 44
#: A gigabyte takes several times as long, and proves the same: memory is bounded by the buffers in
#: flight, which this has many times over.
_LARGE_IMAGE_MIB = int(os.environ.get("KOLLACAST_LARGE_IMAGE_MIB", "256"))
_MOST_MEMORY = 128 * _MIB
_LARGE_IMAGE_PATIENCE_S = 60 + _LARGE_IMAGE_MIB
#: Standard deviations that chance is given.
_SIGMAS = 6


@contextmanager
def _lab(clients: int, **traffic: Any) -> Iterator[Lab]:
    """A lab, or a skip that says what it lacks."""
    reason = Lab.available()
    if reason:
        pytest.skip(reason)
    with Lab(clients, prefix=f"kt-{os.getpid()}-", **traffic) as lab:
        yield lab


def _server_on(crew: Crew, host: Host, *words: str, **more: Any) -> Program:
    return crew.server(*words, host=host, **{"local_ip": host.address, **more})


def _client_on(crew: Crew, host: Host, server: Host, *words: str, **more: Any) -> Program:
    more = {"local_ip": host.address, "server_ip": server.address, **more}
    return crew.client(*words, host=host, **more)


def _report(crew: Crew, name: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((crew.folder / f"{name}.json").read_text())
    return report


def _report_words(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [("--name", name, "--report", f"{name}.json") for name in names]


@pytest.mark.parametrize("own_frames", [False, True], ids=["coalesced", "own frames"])
@pytest.mark.parametrize("loss", [0.0, 0.01, 0.1, 0.3])
@on_the_reactor
async def test_loss(crew: Crew, loss: float, own_frames: bool) -> None:
    """Every image is whole, and every loss is repaired and accounted for."""
    image = image_of(6_000_001)
    packets = -(-len(image) // _PACKET)
    names = [f"host-{number}" for number in range(4)]
    with _lab(4, loss=loss, own_frames=own_frames) as lab:
        server = _server_on(
            crew,
            lab.server,
            *("--input", str(crew.file("image", image)), "--report", "server.json"),
            clients=4,
        )
        clients = [
            _client_on(crew, host, lab.server, "--output", name, *words)
            for host, name, words in zip(lab.clients, names, _report_words(names), strict=True)
        ]
        assert await ends(server, *clients) == [0] * 5, server.errors
        assert_hosts_are_idle(lab)
    sent = _report(crew, "server")
    entries = {entry["name"]: entry for entry in sent["clients"]}
    assert sorted(entries) == names
    assert sent["packets_multicast"] == packets + sent["packets_coded"]
    assert sent["packets_repaired"] == sum(e["packets_repaired"] for e in entries.values())
    # A machine that is busy elsewhere may drop something, too, and then says so.
    found = [line for line in sent["diagnosis"] if "receive buffer" not in line]
    if loss >= 0.1:
        assert len(sent["diagnosis"]) > 0
        assert all("hosts alike lost" in line for line in found), found
    elif not loss:
        assert not any("lost" in line for line in found), found
    # Chance decides about what crosses the link as one.
    draws = packets if own_frames else packets / _COALESCED
    least = packets * (loss - _SIGMAS * math.sqrt(loss * (1 - loss) / draws))
    for name, host in zip(names, lab.clients, strict=True):
        assert (crew.folder / name).read_bytes() == image
        received, entry = _report(crew, name), entries[name]
        assert entry["verified"]
        assert entry["address"] == host.address
        assert entry["packets_multicast"] == received["packets_multicast"]
        assert received["packets_multicast"] + received["packets_repaired"] == packets
        assert received["packets_repaired"] >= least
        by_tcp = received["packets_repaired"] - received["packets_decoded"]
        assert entry["packets_repaired"] >= by_tcp


@on_the_reactor
async def test_loss_in_the_jasmine_dialect(crew: Crew) -> None:
    image = image_of(1_000_001)
    with _lab(4, loss=0.1) as lab:
        server = _server_on(
            crew,
            lab.server,
            *("--input", str(crew.file("image", image)), "--dialect", "jasmine"),
            clients=4,
        )
        await server.said("waiting for clients")  # a jasmine client tries to connect but once
        ours = [_client_on(crew, host, lab.server) for host in lab.clients[:2]]
        theirs = [
            crew.peer(
                "jasmine_client",
                *(host.address, lab.server.address, str(crew.port)),
                *("--patience", str(PATIENCE_S), "--generation", generation),
                host=host,
            )
            for host, generation in zip(lab.clients[2:], "12", strict=True)
        ]
        assert await ends(server, *ours, *theirs) == [0] * 5, server.errors
    for client in (*ours, *theirs):
        assert client.output == image


def _add_cable(one: Host, other: Host) -> tuple[str, str]:
    """Join two hosts by a second interface each; return the addresses of its two ends."""
    addresses = ("10.78.0.1", "10.78.0.2")
    ends = f"eth1 netns {one.namespace} type veth peer name eth1 netns {other.namespace}"
    subprocess.run(["ip", "link", "add", *ends.split()], check=True)
    for host, address in zip((one, other), addresses, strict=True):
        ip = ["ip", "-n", host.namespace]
        subprocess.run([*ip, "addr", "add", f"{address}/24", "dev", "eth1"], check=True)
        subprocess.run([*ip, "link", "set", "eth1", "up"], check=True)
    return addresses


@pytest.mark.parametrize("leaves_by", ["eth0", "eth1"])
@on_the_reactor
async def test_interface(crew: Crew, leaves_by: str) -> None:
    """Multicast leaves by the interface of the server's local_ip, and enters by the client's.

    One host has two clients, each on an interface of its own. The one whose interface carries no
    multicast has all of the image by TCP.
    """
    image = image_of(500_000)
    packets = -(-len(image) // _PACKET)
    with _lab(1) as lab:
        host = lab.clients[0]
        near, far = _add_cable(lab.server, host)
        server = _server_on(
            crew,
            lab.server,
            *("--input", str(crew.file("image", image)), "--listen", "0.0.0.0"),
            clients=2,
            local_ip=near if leaves_by == "eth1" else lab.server.address,
        )
        clients = [
            _client_on(crew, host, lab.server, "--report", f"{name}.json", local_ip=address)
            for name, address in (("eth0", host.address), ("eth1", far))
        ]
        assert await ends(server, *clients) == [0, 0, 0], server.errors
    for client in clients:
        assert client.output == image
    for name in ("eth0", "eth1"):
        by_multicast = _report(crew, name)["packets_multicast"]
        assert by_multicast == (packets if name == leaves_by else 0)


@on_the_reactor
async def test_two_sessions_on_one_group_and_port(crew: Crew) -> None:
    """The kernel keeps the other session's packets away; who asks for them knows them apart."""
    one, two = image_of(800_001), image_of(900_001)
    part = 400 * _PACKET
    names = ["one-0", "one-1", "two-0", "two-1"]
    with _lab(3) as lab:
        servers = [
            _server_on(crew, host, "--buffer-packets", "100", clients=2, stdin="pipe")
            for host in (lab.server, lab.clients[2])
        ]
        sources = [lab.server, lab.server, lab.clients[2], lab.clients[2]]
        words = _report_words(names)
        words[0] += ("--any-source",)
        clients = [
            _client_on(crew, host, source, *more)
            for host, source, more in zip(lab.clients[:2] * 2, sources, words, strict=True)
        ]
        for server, image in zip(servers, (one, two), strict=True):
            server.write(image[:part])
        for client in clients:
            await client.gave(part)
        # The first session pauses in its middle while the second one ends.
        servers[1].write(two[part:])
        servers[1].close_input()
        assert await ends(servers[1], *clients[2:]) == [0] * 3
        servers[0].write(one[part:])
        servers[0].close_input()
        assert await ends(servers[0], *clients[:2]) == [0] * 3
        assert_hosts_are_idle(lab)
    for client, image in zip(clients, (one, one, two, two), strict=True):
        assert client.output == image
    foreign = [_report(crew, name)["packets_damaged"] for name in names[:2]]
    assert foreign[0] >= (len(two) - part) // _PACKET
    assert foreign[1] == 0


@on_the_reactor
async def test_host_that_goes_silent(crew: Crew) -> None:
    """Its cable is pulled: the others get the image, and the server names it."""
    words = ("--buffer-packets", "100", "--client-timeout", "6")
    image = image_of(1_000_000)
    with _lab(3) as lab:
        server = _server_on(crew, lab.server, *words, clients=3, stdin="pipe")
        clients = [
            _client_on(crew, host, lab.server, "--name", f"host-{number}")
            for number, host in enumerate(lab.clients)
        ]
        server.write(image[:500_000])
        for client in clients:
            await client.gave(1)
        lab.set_link(lab.clients[1], up=False)
        server.write(image[500_000:])
        server.close_input()
        assert await ends(server, clients[0], clients[2]) == [4, 0, 0], server.errors
    assert "2 of 3 clients have the image; without: host-1 (" in server.lines[-1]
    assert "for 6 s" in server.lines[-1]
    for client in (clients[0], clients[2]):
        assert client.output == image


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_MIB):
            digest.update(piece)
    return digest.hexdigest()


def _make_large_image(path: Path) -> str:
    """Write the large image; return its SHA-256."""
    with path.open("wb") as file:
        for _ in range(_LARGE_IMAGE_MIB):
            file.write(os.urandom(_MIB))
    return _sha256_of(path)


@on_the_reactor
async def test_memory(crew: Crew) -> None:
    """However large the image is, a process has no more memory than its buffers in flight take."""
    sha256 = _make_large_image(crew.folder / "image")
    with _lab(4, loss=0.01) as lab:
        server = _server_on(
            crew, lab.server, "--input", "image", "--report", "server.json", clients=4
        )
        copies = [f"copy-{number}" for number in range(4)]
        clients = [
            _client_on(crew, host, lab.server, "--output", copy)
            for host, copy in zip(lab.clients, copies, strict=True)
        ]
        peaks = dict.fromkeys((server, *clients), 0)

        def have_ended() -> bool:
            for program in peaks:
                # Not the greatest: before it runs its command, it is a copy of this process.
                peaks[program] = program.peak_memory() or peaks[program]
            return all(program.status is not None for program in peaks)

        await crew.until(have_ended, "the end of the transfer", _LARGE_IMAGE_PATIENCE_S)
        assert await ends(server, *clients) == [0] * 5, server.errors
    for copy in copies:
        assert _sha256_of(crew.folder / copy) == sha256
    report = _report(crew, "server")
    assert (report["sha256"], report["bytes"]) == (sha256, _LARGE_IMAGE_MIB * _MIB)
    for program, peak in peaks.items():
        assert 10 * _MIB < peak < _MOST_MEMORY, f"{program.name}: {peak / _MIB:.0f} MiB"
    for name in (*copies, "image"):
        (crew.folder / name).unlink()
