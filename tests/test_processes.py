"""The two commands as a user runs them: real processes over loopback multicast."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from kollacast.command.log_lines import KEYS
from tests.processes import (
    CHECKOUT,
    LOOPBACK,
    PATIENCE_S,
    Crew,
    Program,
    ends,
    image_of,
    make_crew,
    names_in,
    on_the_reactor,
)

crew = pytest_twisted.async_yield_fixture(make_crew)

_PACKET = 1460  # bytes of payload at the default MTU
_BUFFER_PACKETS = 8
_BUFFER = _BUFFER_PACKETS * _PACKET
_JASMINE = ("--dialect", "jasmine")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    return report


async def _all_well(*programs: Program) -> None:
    """Every process ends with 0, and none was in trouble on the way."""
    await ends(*programs)
    for program in programs:
        assert program.status == 0, program.errors
        assert "Traceback" not in program.errors


@pytest.mark.parametrize("clients", [1, 3])
@on_the_reactor
async def test_every_client_has_the_image(crew: Crew, clients: int) -> None:
    image = image_of(5_000_001)
    source = crew.file("kolla_image.tgz", image)
    server = crew.server("--report", "server.json", clients=clients, stdin=source)
    copies = [crew.folder / f"copy-{number}" for number in range(clients)]
    receivers = [crew.client("--name", copy.name, stdout=copy) for copy in copies]
    await _all_well(server, *receivers)
    for copy in copies:
        assert copy.read_bytes() == image
    assert server.output == b""
    assert f"{clients} of {clients} clients have the image: 5000001 bytes" in server.lines[-1]
    for program in (server, *receivers):
        assert _sha256(image) in program.lines[-1]


@on_the_reactor
async def test_seventy_clients_in_two_groups(crew: Crew) -> None:
    image = image_of(400_000)
    source = crew.file("image", image)
    words = ("--buffer-packets", "64", "--report", "server.json")
    server = crew.server("--input", str(source), *words, clients=70)
    command = ["-n", "kollacast-client", LOOPBACK, LOOPBACK, str(crew.port)]
    jobs = [
        {
            "argv": [*command, "--name", f"host-{number}"],
            "output": f"copy-{number}",
            "errors": f"errors-{number}",
        }
        for number in range(70)
    ]
    crew.file("jobs", json.dumps(jobs).encode())
    crowd = crew.start([sys.executable, str(CHECKOUT / "tests" / "crowd.py"), "jobs"], "crowd")
    await _all_well(server, crowd)
    assert json.loads(crowd.output) == [0] * 70, [
        (crew.folder / f"errors-{number}").read_text() for number in range(70)
    ]
    for number in range(70):
        assert (crew.folder / f"copy-{number}").read_bytes() == image
    report = _read(crew.folder / "server.json")
    assert report["clients_verified"] == 70
    names = {client["name"] for client in report["clients"] if client["verified"]}
    assert names == {f"host-{number}" for number in range(70)}


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (300_000, "--window 1"),
        (300_000, "--window 1 --buffer-packets 10"),
        (300_000, "--window 5 --buffer-packets 7"),
        (30_000, "--window 3 --buffer-packets 1"),
        (300_000, "--group-size 1 --buffer-packets 20"),
        (300_000, "--mtu 9000 --buffer-packets 5"),
        (3_000, "--mtu 144 --buffer-packets 100"),
        (300_000, "--rate 20M --ttl 0"),
        (300_000, "--group 239.1.2.3"),
    ],
)
@on_the_reactor
async def test_options_of_the_server(crew: Crew, size: int, words: str) -> None:
    image = image_of(size)
    server = crew.server("--input", str(crew.file("image", image)), *words.split(), clients=3)
    receivers = [crew.client() for _ in range(3)]
    await _all_well(server, *receivers)
    for receiver in receivers:
        assert receiver.output == image


@pytest.mark.parametrize("dialect", ["kollacast", "jasmine"])
@pytest.mark.parametrize(
    "size",
    [0, 1, _PACKET - 1, _PACKET, _PACKET + 1, _BUFFER - 1, _BUFFER, _BUFFER + 1, 3 * _BUFFER],
)
@on_the_reactor
async def test_sizes(crew: Crew, size: int, dialect: str) -> None:
    image = image_of(size)
    words = ("--dialect", dialect, "--buffer-packets", str(_BUFFER_PACKETS), "--allow-empty")
    server = crew.server("--input", str(crew.file("image", image)), *words)
    client = crew.client("--output", "copy", "--report", "report.json")
    await _all_well(server, client)
    assert (crew.folder / "copy").read_bytes() == image
    assert names_in(crew.folder) == ["copy", "image", "report.json"]
    report = _read(crew.folder / "report.json")
    assert (report["ok"], report["bytes"], report["sha256"]) == (True, size, _sha256(image))


async def _send_in_pieces(server: Program, image: bytes) -> None:
    """Write an image to a server's pipe in pieces that fit no packet and no buffer."""
    await server.said("waiting for clients")
    for start in range(0, len(image), 99_991):
        server.write(image[start : start + 99_991])
    server.close_input()


@pytest.mark.parametrize("way_in", ["option", "redirect", "pipe"])
@on_the_reactor
async def test_ways_of_the_image(crew: Crew, way_in: str) -> None:
    """In by an option, a redirection or a pipe; out by each of the three."""
    image = image_of(1_234_567)
    source = crew.file("image", image)
    if way_in == "option":
        server = crew.server("--input", "image", clients=3)
    else:
        server = crew.server(clients=3, stdin=source if way_in == "redirect" else "pipe")
    by_option = crew.client("--output", "by-option")
    by_redirection = crew.client(stdout=crew.folder / "by-redirection")
    by_pipe = crew.client()
    if way_in == "pipe":
        await _send_in_pieces(server, image)
    await _all_well(server, by_option, by_redirection, by_pipe)
    assert (crew.folder / "by-option").read_bytes() == image
    assert (crew.folder / "by-redirection").read_bytes() == image
    assert by_pipe.output == image
    assert server.output == b""
    assert by_option.output == b""
    assert names_in(crew.folder) == ["by-option", "by-redirection", "image"]


@pytest.mark.parametrize("generation", ["1", "2"])
@on_the_reactor
async def test_our_server_with_jasmine_clients_and_our_own_in_one_session(
    crew: Crew, generation: str
) -> None:
    image = image_of(700_001)
    words = (*_JASMINE, "--buffer-packets", "100", "--report", "server.json")
    server = crew.server("--input", str(crew.file("image", image)), *words, clients=5)
    kind = ("--patience", str(PATIENCE_S), "--generation", generation)
    at = (LOOPBACK, LOOPBACK, str(crew.port), *kind)
    await server.said("waiting for clients")  # a jasmine client tries to connect but once
    theirs = [
        crew.peer("jasmine_client", *at),
        crew.peer("jasmine_client", *at, "--drop", "7"),
        crew.peer("jasmine_client", *at, "--drop", "1", "--ask-again"),
    ]
    ours = [crew.client("--report", f"{number}.json") for number in range(2)]
    await _all_well(server, *theirs, *ours)
    for client in (*theirs, *ours):
        assert client.output == image
    for number in range(2):
        report = _read(crew.folder / f"{number}.json")
        assert (report["dialect"], report["sha256"]) == ("jasmine", _sha256(image))
    report = _read(crew.folder / "server.json")
    assert report["clients_verified"] == 5
    repaired = sorted(client["packets_repaired"] for client in report["clients"])
    packets = -(-len(image) // _PACKET)
    # One client had nothing by multicast, and asked for the last packets twice.
    assert repaired[-1] >= packets
    assert repaired[-2] >= packets // 7
    assert report["packets_multicast"] == packets


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (400_003, "--generation 1 --buffer-packets 40"),
        (400_003, "--generation 2 --buffer-packets 40"),
        (6_000_001, "--generation 1"),
        (6_000_001, "--generation 2"),
    ],
)
@on_the_reactor
async def test_our_clients_with_a_jasmine_server(crew: Crew, size: int, words: str) -> None:
    """Of 6 MB the second generation makes one buffer."""
    image = image_of(size)
    source = crew.file("image", image)
    patience = ("--patience", str(PATIENCE_S))
    mischief = (*words.split(), "--short-reads", "--lose", "9", "--corrupt", "11")
    server = crew.peer(
        "jasmine_server", LOOPBACK, "4", "0", "--input", str(source), *mischief, *patience
    )
    port = int((await server.said("listening on port")).split()[-1])
    ours = [crew.client("--report", f"{number}.json", port=port) for number in range(3)]
    generation = words.split()[:2]
    theirs = crew.peer("jasmine_client", LOOPBACK, LOOPBACK, str(port), *patience, *generation)
    await _all_well(server, *ours, theirs)
    for client in (*ours, theirs):
        assert client.output == image
    for number in range(3):
        report = _read(crew.folder / f"{number}.json")
        assert (report["ok"], report["dialect"]) == (True, "jasmine")
        assert report["packets_damaged"] > 0
        assert report["packets_repaired"] >= report["packets_damaged"]


@on_the_reactor
async def test_an_unidentified_connection_among_jasmine_clients(crew: Crew) -> None:
    """It counts as long as it may be a client; then the C client of 5 s has not given up yet."""
    image = image_of(300_000)
    words = (*_JASMINE, "--report", "server.json")
    server = crew.server("--input", str(crew.file("image", image)), *words, clients=2)
    await server.said("waiting for clients")
    with socket.create_connection((LOOPBACK, crew.port)):
        await server.said("1 of 2")
        theirs = crew.peer(
            *("jasmine_client", LOOPBACK, LOOPBACK, str(crew.port), "--generation", "1")
        )
        await server.said("does not count as a client: no READY for 4 s")
        assert await ends(server, theirs) == [4, 0], (server.errors, theirs.errors)
    assert theirs.output == image
    report = _read(crew.folder / "server.json")
    assert (report["clients_verified"], len(report["clients"])) == (1, 1)
    assert server.lines[-1].endswith("1 of 2 clients have the image, 1 never came")


@on_the_reactor
async def test_a_jasmine_client_and_the_default_dialect(crew: Crew) -> None:
    image = image_of(10_000)
    server = crew.server("--input", str(crew.file("image", image)))
    await server.said("waiting for clients")
    theirs = crew.peer("jasmine_client", LOOPBACK, LOOPBACK, str(crew.port))
    line = await server.said("as the C client jasminec does")
    assert "which needs a server with --dialect jasmine" in line
    assert await ends(theirs) == [1]
    client = crew.client()
    await _all_well(server, client)
    assert client.output == image


@on_the_reactor
async def test_a_jasmine_server_in_the_middle_of_another_session(crew: Crew) -> None:
    """Who comes too late hears nothing until that one is over, and then that nobody is there."""
    words = ("--input", str(crew.file("image", image_of(10_000))))
    server = crew.peer("jasmine_server", LOOPBACK, "1", "0", *words)
    port = int((await server.said("listening on port")).split()[-1])
    with socket.create_connection((LOOPBACK, port)):
        late = crew.client("--connect-timeout", "12", "--output", "copy", port=port)
        line = await late.said("has not said a word within 10 s")
        assert "a jasmine server in the middle of another session" in line
    await ends(server)
    assert await late.end() == 1
    assert f"no server at {LOOPBACK} port {port} within 12 s: " in late.lines[-1]
    assert names_in(crew.folder) == ["image"]


@on_the_reactor
async def test_reports(crew: Crew) -> None:
    image = image_of(100_000)
    source = crew.file("kolla_image.tgz", image)
    words = ("--report", "server.json", "--buffer-packets", "20")
    server = crew.server("--input", str(source), *words, clients=2)
    clients = [
        crew.client("--name", name, "--report", f"{name}.json", "--output", name)
        for name in ("one", "two")
    ]
    await _all_well(server, *clients)
    packets = -(-len(image) // _PACKET)

    report = _read(crew.folder / "server.json")
    assert report["exit_status"] == 0
    assert report["message"] in server.lines[-1]
    assert report["reason"] is None
    assert report["name"] == "kolla_image.tgz"
    assert report["bytes"] == len(image)
    assert report["sha256"] == _sha256(image)
    assert report["seconds"] > 0
    assert report["throughput_bytes_per_s"] > 0
    assert report["packets_multicast"] == packets
    assert (report["clients_expected"], report["clients_verified"]) == (2, 2)
    assert sorted(client["name"] for client in report["clients"]) == ["one", "two"]
    repaired = sum(client["packets_repaired"] for client in report["clients"])
    assert report["packets_repaired"] == repaired
    for entry in report["clients"]:
        assert entry["address"] == LOOPBACK
        assert (entry["verified"], entry["reason"]) == (True, None)
        assert entry["packets_multicast"] + entry["packets_repaired"] >= packets
        assert 0 < entry["seconds"] < PATIENCE_S

    for name, client in zip(("one", "two"), clients, strict=True):
        report = _read(crew.folder / f"{name}.json")
        assert report["exit_status"] == 0
        assert report["message"] in client.lines[-1]
        assert (report["ok"], report["reason"]) == (True, None)
        assert (report["name"], report["server"]) == (name, LOOPBACK)
        assert (report["image"], report["dialect"]) == ("kolla_image.tgz", "kollacast")
        assert (report["bytes"], report["sha256"]) == (len(image), _sha256(image))
        assert report["packets_multicast"] + report["packets_repaired"] == packets
        assert report["seconds"] > 0


@on_the_reactor
async def test_plain_progress_and_none(crew: Crew) -> None:
    """Standard error is a pipe here, and so `auto` is plain."""
    source = str(crew.file("image", image_of(50_000)))
    server = crew.server("--input", source, clients=3)
    plain = crew.client("--progress", "plain", "--name", "a")
    quiet = crew.client("--progress", "none", "--name", "b")
    await server.said("waiting for clients: 0 B of 50.0 kB (0 %), ", "/3 clients, 0 repaired")
    third = crew.client("--progress", "none", "--name", "c")
    await _all_well(server, plain, quiet, third)
    assert "nobody is proved" in plain.lines[0]
    assert plain.lines[1] == "kollacast-client: connecting: 0 B, 0 repaired"
    for program in (quiet, third):
        # The output is a pipe, and that is said.
        unproved, unsynced, line = program.lines
        assert "nobody is proved" in unproved
        assert "standard output is no file and no disk" in unsynced
        assert line.startswith("kollacast-client: the image is here: 50000 bytes")
    for program in (server, plain):
        assert all(line.startswith(f"kollacast-{program.name}: ") for line in program.lines)
        assert "\r" not in program.errors


async def _end_of_daemon(crew: Crew, name: str, last: str = "Server Shut Down") -> str:
    """Wait until a daemon has ended; return its log, which has `last` in it."""
    log, pid_file = crew.folder / f"{name}.log", crew.folder / f"{name}.pid"

    def has_ended() -> bool:
        return log.exists() and last in log.read_text() and not pid_file.exists()

    await crew.until(has_ended, f"the end of the {name} that runs as a daemon")
    return log.read_text()


def _kill_daemon(pid_file: Path) -> None:
    try:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
    except (OSError, ValueError):
        pass  # it has ended, as it should


@on_the_reactor
async def test_daemons(crew: Crew) -> None:
    image = image_of(2_000_000)
    source = crew.file("image", image)
    server = crew.server("--input", str(source), twistd=_as_daemon("server"))
    client = crew.client("--output", "copy", twistd=_as_daemon("client"))
    try:
        await _all_well(server, client)
        assert server.output + client.output == b""
        assert "1 of 1 clients have the image" in await _end_of_daemon(crew, "server")
        assert "the image is here: 2000000 bytes" in await _end_of_daemon(crew, "client")
    finally:
        _kill_daemon(crew.folder / "server.pid")
        _kill_daemon(crew.folder / "client.pid")
    assert (crew.folder / "copy").read_bytes() == image
    assert names_in(crew.folder) == ["client.log", "copy", "image", "server.log"]


def _as_daemon(name: str) -> tuple[str, ...]:
    """Options of twistd for a run in the background; several may share a folder."""
    return ("--pidfile", f"{name}.pid", "--logfile", f"{name}.log")


@on_the_reactor
async def test_logs_in_json(crew: Crew) -> None:
    """In the foreground and in a daemon's file: one session, and all of a host's lines by its name.

    A wrong command line is a line of JSON, too.
    """
    image = image_of(300_000)
    words = ("--log-format", "json", "--progress", "plain")
    source = str(crew.file("image", image))
    server = crew.server("--input", source, *words, clients=2, twistd=_as_daemon("server"))
    clients = [crew.client("--name", name, *words) for name in ("one", "t\u00fco")]
    await _all_well(server, *clients)
    logs = [json.loads(line) for client in clients for line in client.lines]
    told = [
        json.loads(line) for line in (await _end_of_daemon(crew, "server", "outcome")).splitlines()
    ]
    for line in (*logs, *told):
        assert list(line) == list(KEYS)
    [session] = {line["session"] for line in logs if line["event"] == "outcome"}
    assert {line["session"] for line in told if line["host"] == "one"} == {session}
    assert {line["host"] for line in logs} == {"one", "t\u00fco"}
    assert {line["event"] for line in logs} >= {"progress", "outcome"}
    assert [line["host"] for line in told if line["event"] == "client-in"] != []
    [outcome] = [line for line in told if line["event"] == "outcome"]
    assert "2 of 2 clients have the image" in outcome["text"]
    wrong = crew.client(*words, "--report", "/proc/none")
    assert await wrong.end() == 2
    [line] = wrong.lines
    assert json.loads(line)["text"].startswith("--report /proc/none: cannot be written")


@on_the_reactor
async def test_a_daemon_has_no_standard_streams(crew: Crew) -> None:
    source = crew.file("image", b"image")
    server = crew.server(stdin=source, twistd=_as_daemon("server"))
    client = crew.client(stdout=crew.folder / "copy", twistd=_as_daemon("client"))
    assert await ends(server, client) == [2, 2]
    assert server.lines == [
        "kollacast-server: a daemon has no standard input: give --input, or run twistd -n"
    ]
    assert client.lines == [
        "kollacast-client: a daemon has no standard output: give --output, or run twistd -n"
    ]
    assert (crew.folder / "copy").read_bytes() == b""
    assert names_in(crew.folder) == ["copy", "image"]


@on_the_reactor
async def test_exit_status_when_some_have_the_image_and_some_do_not(crew: Crew) -> None:
    image = image_of(300_000)
    words = ("--report", "server.json", "--input", str(crew.file("image", image)))
    server = crew.server(*words, clients=2)
    lucky = crew.client("--name", "lucky")
    unlucky = crew.client("--name", "unlucky", stdout="/dev/full")
    assert await ends(server, lucky, unlucky) == [4, 0, 1]
    assert lucky.output == image
    assert unlucky.lines[-1] == (
        "kollacast-client: cannot write the image: No space left on device"
    )
    assert server.lines[-1] == (
        "kollacast-server: 1 of 2 clients have the image; without: unlucky (127.0.0.1):"
        " cannot write the image: No space left on device"
    )
    report = _read(crew.folder / "server.json")
    assert report["exit_status"] == 4
    assert {client["name"]: client["verified"] for client in report["clients"]} == {
        "lucky": True,
        "unlucky": False,
    }


@on_the_reactor
async def test_exit_status_when_nobody_has_the_image(crew: Crew) -> None:
    source = crew.file("image", image_of(300_000))
    server = crew.server("--input", str(source))
    client = crew.client(stdout="/dev/full")
    assert await ends(server, client) == [1, 1]
    assert "No space left on device" in server.lines[-1]


@on_the_reactor
async def test_exit_status_of_a_wrong_command_line(crew: Crew) -> None:
    server = crew.server("--window", "none")
    client = crew.client("--nonsense")
    assert await ends(server, client) == [2, 2]
    for program in (server, client):
        assert len(program.lines) == 1
        assert program.output == b""
