"""The operator and a server that waits, as real processes: start now, end it, start another."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import pytest_twisted

from kollacast.operator.outcome import Status
from tests.processes import Crew, ends, image_of, make_crew, names_in, on_the_reactor

crew = pytest_twisted.async_yield_fixture(make_crew)


@on_the_reactor
async def test_those_who_came_are_enough(crew: Crew) -> None:
    """At the earliest when there is somebody; in the end those who never came are missing."""
    image = crew.file("image", image_of(1_000_000))
    server = crew.server("--report", "report.json", clients=3, stdin=image)
    await server.said("waiting for clients")
    server.send_signal(signal.SIGUSR2)
    await server.said("asked to start now: no client has come yet, still waiting")
    clients = [crew.client("--output", f"copy{n}", "--name", f"host{n}") for n in range(2)]
    await server.said("is in: 2 of 3")
    server.send_signal(signal.SIGUSR2)
    await server.said("starting with 2 of 3 clients")
    assert await ends(server, *clients) == [Status.PARTIAL, Status.OK, Status.OK]
    for n in range(2):
        assert (crew.folder / f"copy{n}").read_bytes() == image.read_bytes()
    assert server.lines[-1] == "kollacast-server: 2 of 3 clients have the image, 1 never came"
    report = json.loads((crew.folder / "report.json").read_text())
    assert (report["clients_expected"], report["clients_verified"]) == (3, 2)


@on_the_reactor
async def test_after_the_start_it_ends_nothing(crew: Crew) -> None:
    server = crew.server(stdin="pipe")
    client = crew.client()
    image = image_of(3_000_000)
    server.write(image[:2_000_000])
    await client.gave(1)
    server.send_signal(signal.SIGUSR2)
    await server.said("asked to start now: the session has started already")
    server.write(image[2_000_000:])
    server.close_input()
    assert await ends(server, client) == [Status.OK] * 2
    assert bytes(client.output) == image


@on_the_reactor
async def test_fewer_descriptors_than_clients(crew: Crew) -> None:
    """They would never all get in: said before anybody waits, and not found out by waiting."""
    image = crew.file("image", image_of(1000))
    server = crew.server(clients=200, stdin=image, prefix=("prlimit", "--nofile=256"))
    assert await server.end() == Status.FAILED
    assert server.lines == [
        "kollacast-server: 200 clients take 264 descriptors, and this process may have 256:"
        " raise the limit (ulimit -Hn, LimitNOFILE=, --ulimit nofile)"
    ]


@on_the_reactor
async def test_a_daemon(crew: Crew) -> None:
    """Its log has the line that names the signal, with the daemon's own process."""
    image = crew.file("image", image_of(1_000_000))
    log, pid_file = crew.folder / "server.log", crew.folder / "server.pid"
    twistd = ("--pidfile", str(pid_file), "--logfile", str(log))
    starter = crew.server("--input", str(image), clients=2, twistd=twistd)
    client = crew.client("--output", "copy", "--name", "early")
    assert await starter.end() == 0
    try:
        reminder = r"1 of 2 are missing; here: early \(127\.0\.0\.1\)\..*kill -USR2 (\d+)"
        await crew.until(lambda: _found(log, reminder) is not None, "the line about the signal")
        found = _found(log, reminder)
        assert found is not None
        assert found[1] == pid_file.read_text().strip()
        os.kill(int(found[1]), signal.SIGUSR2)
        assert await client.end() == Status.OK
        await crew.until(lambda: not pid_file.exists(), "the end of the daemon")
        assert "1 of 2 clients have the image, 1 never came" in log.read_text()
    finally:
        if pid_file.exists():
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


def _found(log: Path, pattern: str) -> re.Match[str] | None:
    return re.search(pattern, log.read_text()) if log.exists() else None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@on_the_reactor
async def test_a_server_that_waits_is_ended_and_started_with_the_right_file(
    crew: Crew, number: int
) -> None:
    wrong, right = crew.file("wrong", b"wrong"), crew.file("right", image_of(1_000_000))
    first = crew.server(clients=3, stdin=wrong)
    clients = [crew.client("--output", "copy"), crew.client()]
    await first.said("is in: 2 of 3")
    first.send_signal(number)
    assert await first.end() == -number
    for client in clients:
        await client.said("the server gave up before it began: interrupted", "for 60 s")
    again = crew.server(clients=2, stdin=right)
    assert await ends(again, *clients) == [Status.OK] * 3
    assert (crew.folder / "copy").read_bytes() == right.read_bytes()
    assert bytes(clients[1].output) == right.read_bytes()
    assert names_in(crew.folder) == ["copy", "right", "wrong"]
