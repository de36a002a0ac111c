"""One transfer in a lab, alone or under attack, and its figures.

The last host of the lab is the stranger's. CPU seconds and memory are the victims' own, so they
tell what an attack costs them however little of a machine is left for all of it together.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.crew import Crew, Process, Side, TransferError
from lab import Lab
from tests.processes import CHECKOUT, TWISTD, free_port

_ENVIRONMENT = {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
#: The longest that a transfer may take, and an attacker to begin.
_LIMIT_S = 90.0
_LOOK_S = 0.02


@dataclass(frozen=True)
class Attack:
    """What a stranger does, and whether datagrams of his seem to be the server's own."""

    kind: str
    is_spoofed: bool = False
    rate: int | None = None  #: datagrams a second
    sniffs: bool = False  #: whether he reads no greeting, but packets

    @property
    def name(self) -> str:
        """What it is called in a table."""
        return f"{self.kind}, as the server" if self.is_spoofed else self.kind

    def argv(self, lab: Lab, port: int) -> list[str]:
        """The stranger's command."""
        words = [self.kind, lab.server.address, str(port)]
        if self.is_spoofed:
            words += ["--seem", lab.server.address]
        if self.sniffs:
            words.append("--sniff")
        if self.rate is not None:
            words += ["--rate", str(self.rate)]
        return [sys.executable, "-m", "tests.hostile.attacker", *words]


@dataclass(frozen=True)
class Figures:
    """How a transfer went: in all of it every client has got the image."""

    seconds: float  #: from the first packet to the last report
    server_cpu_s: float
    client_cpu_s: float  #: of the client that took the most
    server_bytes: int  #: the most memory
    client_bytes: int
    clients_fetching: int  #: clients that TCP had to bring the rest to
    server_said: str

    def __str__(self) -> str:
        memory = f"{self.server_bytes / 2**20:4.0f} {self.client_bytes / 2**20:4.0f} MiB"
        cpu = f"server {self.server_cpu_s:5.2f} client {self.client_cpu_s:5.2f} CPU s"
        return f"{self.seconds:6.2f} s  {cpu}  {memory}  fetching {self.clients_fetching}"


@contextmanager
def attacked_lab(prefix: str, clients: int, rate_bps: int, *, own_frames: bool) -> Iterator[Lab]:
    """A network of a server, clients and one stranger; `own_frames` as in a lab."""
    with Lab(clients + 1, prefix=prefix, rate_bps=rate_bps, own_frames=own_frames) as lab:
        yield lab


def trial(
    lab: Lab,
    folder: Path,
    image: Path,
    attack: Attack | None,
    *words: str,
    both: Sequence[str] = (),
) -> Figures:
    """Bring `image` to all clients of `lab`, under `attack` from before they come to the end.

    `words` are options of the server, and `both` those of both ends. Raises TransferError where a
    process ends in another way than well, AssertionError where a copy differs.
    """
    *hosts, stranger = lab.clients
    port = free_port()
    report = folder / "server.json"
    copies = [folder / f"copy-{index}" for index in range(len(hosts))]
    for old in (report, *copies):
        old.unlink(missing_ok=True)
    options = ["--input", str(image), "--report", str(report), "--progress", "none", *words, *both]
    argv = [*TWISTD, "-n", "kollacast-server", lab.server.address, str(len(hosts)), str(port)]
    with Crew(folder, _LIMIT_S) as crew:
        server = crew.start(lab.server, Side.SENDER, _in(folder, argv, options), _ENVIRONMENT)
        if attack is not None:
            attacker = crew.start(stranger, Side.SENDER, attack.argv(lab, port), _ENVIRONMENT)
            _await_attack(crew, attacker)
        clients = []
        for host, copy in zip(hosts, copies, strict=True):
            argv = [*TWISTD, "-n", "kollacast-client", host.address, lab.server.address, str(port)]
            options = [
                "--output",
                str(copy),
                "--progress",
                "none",
                "--connect-timeout",
                "30",
                *both,
            ]
            argv = _in(folder, argv, options)
            clients.append(crew.start(host, Side.RECEIVER, argv, _ENVIRONMENT))
        crew.wait_until(lambda: all(p.ended is not None for p in (server, *clients)))
        if attack is not None:
            assert attacker.ended is None, attacker.log.read_text()
    expected = image.read_bytes()
    for copy in copies:
        assert copy.read_bytes() == expected, f"{copy} differs"
    told = json.loads(report.read_text())
    assert told["clients_verified"] == len(hosts)
    return Figures(
        seconds=told["seconds"],
        server_cpu_s=server.cpu_s,
        client_cpu_s=max(client.cpu_s for client in clients),
        server_bytes=server.peak_bytes,
        client_bytes=max(client.peak_bytes for client in clients),
        clients_fetching=sum(client["fetching"] is not None for client in told["clients"]),
        server_said=server.log.read_text(),
    )


def _in(folder: Path, argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """A command of twistd whose own files are none."""
    at = argv.index("-n") + 1
    return [*argv[:at], "--pidfile=", *argv[at:], *options]


def _await_attack(crew: Crew, attacker: Process) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while "attacking" not in attacker.log.read_text():
        if time.monotonic() > deadline or attacker.ended is not None:
            raise TransferError(f"no attack: {attacker.log.read_text()}")
        crew.watch(_LOOK_S)
