"""A transfer under fault: a server and clients on the hosts of a lab, and how all of it must end.

    async with transfer(crew, 3, loss=0.1) as run:
        await run.reached(0.3)
        ...  # the fault
        await run.all_have_it()

Leaving the block asserts that nothing is left: no process, no file beside the copies, no group.
The image is some megabytes and its way is slow, so that a fault lands in the middle of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kollacast.operator.outcome import Status
from lab import Lab
from tests.processes import Crew, Program, ends, image_of, names_in

SIZE = 2_000_001
PACKET = 1460
PACKETS = -(-SIZE // PACKET)
#: 14 buffers in a little under two seconds.
SLOW = ("--rate", "10M", "--buffer-packets", "100")


class Transfer:
    """One image on its way; `server` and `clients` are the processes that run at present."""

    def __init__(self, crew: Crew, lab: Lab, image: bytes) -> None:
        self.crew = crew
        self.lab = lab
        self.image = image
        self.server: Program
        self.clients: list[Program] = []
        #: For temporary files; empty in the end.
        self.temporary = crew.folder / "tmp"
        self.temporary.mkdir()
        #: What may lie in the folder in the end, whatever happens.
        self._expected = {"tmp", "image"}
        crew.file("image", self.image)

    def start_server(self, *words: str, clients: int, piped: bool = False) -> Program:
        """Start the server, or start it again; its report is ``server.json``.

        With `piped` the image is what the test writes to it.
        """
        host = self.lab.server
        self._expected.add("server.json")
        self.server = self.crew.server(
            *(() if piped else ("--input", "image")),
            *("--report", "server.json", *words),
            clients=clients,
            local_ip=host.address,
            host=host,
            env=self._environment,
            stdin="pipe" if piped else os.devnull,
        )
        return self.server

    def start_client(self, index: int, *words: str, output: str | None = None) -> Program:
        """Start client `index` on its host, or start it again.

        Its report is ``client-N.json``. It writes ``copy-N``, or `output`, which is "-" for its
        standard output.
        """
        host = self.lab.clients[index]
        name = f"client-{index}"
        self._expected.update((f"copy-{index}", f"{name}.json"))
        to_file = () if output == "-" else ("--output", output or f"copy-{index}")
        client = self.crew.client(
            *("--name", name, "--report", f"{name}.json", *to_file, *words),
            local_ip=host.address,
            server_ip=self.lab.server.address,
            host=host,
            env=self._environment,
        )
        self.clients[index : index + 1] = [client]
        return client

    def may_have(self, name: str) -> None:
        """Take no offence at a file of this name in the end."""
        self._expected.add(name)

    @property
    def _environment(self) -> dict[str, str]:
        return {"TMPDIR": str(self.temporary)}

    def kept(self, index: int) -> int:
        """Bytes of client `index`'s copy that are on its disk so far, whole or in part."""
        name = f"copy-{index}"
        sizes = []
        for found in names_in(self.crew.folder):
            if found == name or found.startswith(f".{name}."):
                try:
                    sizes.append((self.crew.folder / found).stat().st_size)
                except FileNotFoundError:  # it has just got its final name
                    continue
        return max(sizes, default=0)

    async def reached(self, share: float, indices: Sequence[int] | None = None) -> None:
        """Wait until these clients, or all, have this share of the image."""
        indices = range(len(self.clients)) if indices is None else indices
        least = int(share * SIZE)
        await self.crew.until(
            lambda: all(self.kept(index) >= least for index in indices),
            f"{least} bytes at clients {list(indices)}",
        )

    def copy(self, index: int) -> bytes:
        """The copy of client `index`."""
        return (self.crew.folder / f"copy-{index}").read_bytes()

    def report(self, name: str) -> dict[str, Any]:
        """The report of the ``server`` or of ``client-N``."""
        report: dict[str, Any] = json.loads((self.crew.folder / f"{name}.json").read_text())
        return report

    async def all_have_it(self) -> None:
        """Wait for the end: every client has the image, and the server knows."""
        await self.have_it(range(len(self.clients)))
        assert await self.server.end() == Status.OK, self.server.errors
        assert self.report("server")["clients_verified"] == len(self.clients)

    async def have_it(self, indices: Sequence[int]) -> None:
        """Wait for these clients' end: they have the image."""
        clients = [self.clients[index] for index in indices]
        told = "\n".join(program.errors for program in (*clients, self.server))
        assert await ends(*clients) == [Status.OK] * len(clients), told
        for index in indices:
            assert self.copy(index) == self.image, f"the copy of client {index} differs"

    def assert_nothing_is_left(self, parts_of: Sequence[int] = ()) -> None:
        """No process, no group, and no file but the copies, reports, and kept parts of these."""
        assert_hosts_are_idle(self.lab)
        assert names_in(self.temporary) == []
        parts = tuple(f".copy-{index}." for index in parts_of)
        left = [n for n in names_in(self.crew.folder) if not (parts and n.startswith(parts))]
        assert set(left) <= self._expected, f"files are left: {left}"


@asynccontextmanager
async def transfer(
    crew: Crew,
    clients: int,
    *words: str,
    expected: int | None = None,
    hosts: int | None = None,
    piped: bool = False,
    parts_of: Sequence[int] = (),
    slow: Sequence[str] = SLOW,
    **traffic: Any,
) -> AsyncIterator[Transfer]:
    """A server with these `words` and so many clients, one a host; a skip where no lab can be.

    `expected` is how many clients the server waits for and `hosts` how many there are for them,
    where that is more; `piped` is for `Transfer.start_server` and `traffic` for the lab. `parts_of`
    are the clients whose kept parts may stay.
    """
    reason = Lab.available()
    if reason:
        pytest.skip(reason)
    with Lab(hosts or clients, prefix=f"kf-{os.getpid()}-", **traffic) as lab:
        run = Transfer(crew, lab, image_of(SIZE))
        run.start_server(*slow, *words, clients=expected or clients, piped=piped)
        for index in range(clients):
            run.start_client(index)
        yield run
        run.assert_nothing_is_left(parts_of)


def assert_hosts_are_idle(lab: Lab) -> None:
    """No process runs on a host, and none has joined a group."""
    assert lab.processes() == []
    for host in (lab.server, *lab.clients):
        assert lab.groups(host) == set(), f"groups are left on {host.namespace}"


def part_of(folder: Path, index: int) -> list[str]:
    """The names of what is kept of client `index`'s copy for a later run."""
    return [name for name in names_in(folder) if name.startswith(f".copy-{index}.")]
