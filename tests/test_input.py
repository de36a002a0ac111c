"""Images as real files and pipes are: changed, empty, cut short, sparse, of any name at all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.processes import Crew, Program, ends, image_of, make_crew, names_in, on_the_reactor

crew = pytest_twisted.async_yield_fixture(make_crew)

_BUFFER = 20 * 1460
#: Slow enough that a test can act in the middle, whatever the machine.
_SLOW = ("--buffer-packets", "20", "--rate", "8M")
_EMPTY = "the image is empty: its input has ended before a single byte"


def _check(program: Program, status: int, *texts: str) -> None:
    """The process ended with `status` and one line that says why."""
    assert program.status == status, program.errors
    assert "Traceback" not in program.errors
    for text in texts:
        assert text in program.lines[-1], program.errors


def _clients(crew: Crew, count: int = 2) -> tuple[list[Program], list[Path]]:
    copies = []
    for number in range(count):
        folder = crew.folder / f"host-{number}"
        folder.mkdir()
        copies.append(folder / "copy")
        copies[-1].write_bytes(b"an older image")
    return [crew.client("--output", str(copy)) for copy in copies], copies


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"another image")


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("way", ["--input", "<"])
@pytest.mark.parametrize("change", ["overwritten", "truncated", "appended to"])
@on_the_reactor
async def test_a_file_that_changes_while_it_is_sent(crew: Crew, change: str, way: str) -> None:
    path = crew.file("image", image_of(1_500_000))
    words = ("--input", str(path)) if way == "--input" else ()
    server = crew.server(
        *_SLOW,
        *words,
        "--report",
        "report.json",
        clients=2,
        stdin=path if not words else os.devnull,
    )
    clients, copies = _clients(crew)
    await crew.until(lambda: clients[0].writes_in(copies[0].parent) > 0, "the first bytes")
    if change == "truncated":
        os.truncate(path, 700_000)
    else:
        {"overwritten": _overwrite, "appended to": _append}[change](path)
    await ends(server, *clients)
    reason = "cannot read the image: its file has changed since this run began: it "
    _check(server, 1, reason)
    assert json.loads((crew.folder / "report.json").read_text())["clients_verified"] == 0
    for client, copy in zip(clients, copies, strict=True):
        _check(client, 1, f"the server gave up: {reason}")
        assert copy.read_bytes() == b"an older image"


@on_the_reactor
async def test_a_file_that_is_replaced_by_a_rename(crew: Crew) -> None:
    image = image_of(1_500_000)
    path = crew.file("image", image)
    server = crew.server(*_SLOW, "--input", str(path), clients=2)
    clients, copies = _clients(crew)
    await crew.until(lambda: clients[0].writes_in(copies[0].parent) > 0, "the first bytes")
    crew.file("next", b"the next image").rename(path)
    assert await ends(server, *clients) == [0, 0, 0]
    assert [copy.read_bytes() for copy in copies] == [image, image]


@on_the_reactor
async def test_no_input(crew: Crew) -> None:
    """As under cron: it is said at once, and nobody waits for clients."""
    for source in (os.devnull, crew.file("empty", b"")):
        server = crew.server("--report", "report.json", stdin=source)
        await server.end()
        _check(server, 1, _EMPTY)
        assert len(server.lines) == 1, server.errors
        assert json.loads((crew.folder / "report.json").read_text())["exit_status"] == 1


@on_the_reactor
async def test_a_pipe_whose_writer_dies_at_once(crew: Crew) -> None:
    server = crew.server(clients=2, stdin="pipe")
    server.close_input()
    clients, copies = _clients(crew)
    await ends(server, *clients)
    _check(server, 1, _EMPTY, "--allow-empty")
    for client, copy in zip(clients, copies, strict=True):
        _check(client, 1, f"the server gave up: {_EMPTY}")
        assert copy.read_bytes() == b"an older image"


@on_the_reactor
async def test_an_empty_image_that_is_meant(crew: Crew) -> None:
    server = crew.server("--allow-empty", clients=1)
    (client,), (copy,) = _clients(crew, 1)
    assert await ends(server, client) == [0, 0]
    assert copy.read_bytes() == b""


@pytest.mark.parametrize("dialect", ["kollacast", "jasmine"])
@pytest.mark.parametrize("what", ["size", "digest"])
@on_the_reactor
async def test_a_pipe_that_breaks_off(crew: Crew, what: str, dialect: str) -> None:
    image = image_of(3 * _BUFFER)
    words = {
        "size": ("--expect-size", str(len(image))),
        "digest": ("--expect", f"sha256:{hashlib.sha256(image).hexdigest()}"),
    }[what]
    server = crew.server(*words, "--dialect", dialect, stdin="pipe")
    (client,), (copy,) = _clients(crew, 1)
    server.write(image[: 2 * _BUFFER])
    server.close_input()
    await ends(server, client)
    reason = {
        "size": f"the image has {2 * _BUFFER} bytes, and --expect-size says {len(image)}",
        "digest": "the image is not the one that --expect names: its sha256 is ",
    }[what]
    _check(server, 1, reason)
    _check(client, 1, *([f"the server gave up: {reason}"] if dialect == "kollacast" else []))
    assert copy.read_bytes() == b"an older image"
    assert names_in(copy.parent) == ["copy"]


@on_the_reactor
async def test_a_pipe_that_brings_what_is_expected(crew: Crew) -> None:
    image = image_of(3 * _BUFFER)
    digest = f"sha256:{hashlib.sha256(image).hexdigest()}"
    words = ("--expect-size", str(len(image)), "--expect", digest)
    server = crew.server(*words, stdin="pipe")
    (client,), (copy,) = _clients(crew, 1)
    server.write(image)
    server.close_input()
    assert await ends(server, client) == [0, 0]
    assert copy.read_bytes() == image


@pytest.mark.parametrize("way", ["--input", "<"])
@on_the_reactor
async def test_a_name_that_is_no_text(crew: Crew, way: str) -> None:
    image = image_of(_BUFFER)
    path = os.path.join(os.fsencode(crew.folder), b"caf\xe9.tgz")
    with open(path, "wb") as file:
        file.write(image)
    fd = os.open(path, os.O_RDONLY)
    try:
        words = ("--input", os.fsdecode(path)) if way == "--input" else ()
        server = crew.server(*words, "--report", "report.json", stdin=fd)
    finally:
        os.close(fd)
    client = crew.client("--output", "copy", "--report", "client.json")
    assert await ends(server, client) == [0, 0], server.errors
    assert (crew.folder / "copy").read_bytes() == image
    report = json.loads((crew.folder / "report.json").read_text("utf-8"))
    assert report["name"] == "caf\\xe9.tgz"
    assert json.loads((crew.folder / "client.json").read_text("utf-8"))["image"] == "caf\\xe9.tgz"


@on_the_reactor
async def test_an_output_whose_name_is_no_text(crew: Crew) -> None:
    image = image_of(_BUFFER)
    name = os.fsdecode(b"caf\xe9")
    server = crew.server("--input", str(crew.file("image", image)), "--report", f"{name}.json")
    client = crew.client("--output", name)
    assert await ends(server, client) == [0, 0], client.errors
    with open(os.path.join(os.fsencode(crew.folder), b"caf\xe9"), "rb") as file:
        assert file.read() == image


# Zeros.


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("joins", ["at the start", "late"])
@on_the_reactor
async def test_a_sparse_image_is_written_sparse(crew: Crew, joins: str) -> None:
    data = image_of(300_000)
    size = 24_000_000
    path = crew.folder / "image"
    with path.open("wb") as file:
        for offset in (0, 9_000_001, 15_000_000):
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    late = joins == "late"
    words = ("--rate", "60M", "--accept-timeout", "10", "--min-clients", "1") if late else ()
    server = crew.server("--input", str(path), *words, clients=2)
    first = crew.client("--output", "first", "--name", "first")
    if late:
        await server.said("starting with 1 of 2 clients")
        await crew.until(lambda: first.writes_in(crew.folder) > 0, "the first bytes")
    other = crew.client("--output", "other", "--name", "other")
    assert await ends(server, first, other) == [0, 0, 0], server.errors
    for name in ("first", "other"):
        copy = crew.folder / name
        assert copy.stat().st_size == size
        assert copy.read_bytes() == path.read_bytes()
        # Where a buffer or a packet ends is no block's end: something beside the data is written.
        assert _allocated(copy) < 3 * len(data) + 2_000_000, _allocated(copy)


# A disk as the output.


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[str]:
    """A block device whose writes fit into memory and not onto its backing store."""
    if os.geteuid() != 0:
        pytest.skip("a block device of its own needs root")
    store = tmp_path / "store"
    store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(store)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("not installed: mount")
    if made.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        disk = store / "disk"
        with disk.open("wb") as file:
            file.truncate(16 * 1024 * 1024)
        try:
            found = subprocess.run(
                ["losetup", "--find", "--show", str(disk)],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            pytest.skip("not installed: losetup")
        if found.returncode:
            pytest.skip("no loop devices here")
        device = found.stdout.strip()
        try:
            yield device
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(store)], check=True)


@on_the_reactor
async def test_a_disk_that_does_not_keep_what_it_is_given(crew: Crew, failing_disk: str) -> None:
    image = image_of(4_000_000)
    fd = os.open(failing_disk, os.O_WRONLY)
    try:
        client = crew.client("--name", "disk", stdout=fd)
    finally:
        os.close(fd)
    server = crew.server("--input", str(crew.file("image", image)))
    await ends(server, client)
    _check(client, 1, "cannot write the image: ")
    _check(server, 1, "no client is left; without: disk (127.0.0.1): cannot write the image: ")


@on_the_reactor
async def test_what_cannot_be_synced_is_said_once(crew: Crew) -> None:
    image = image_of(_BUFFER)
    server = crew.server("--input", str(crew.file("image", image)))
    client = crew.client()
    assert await ends(server, client) == [0, 0]
    assert client.output == image
    assert client.errors.count("standard output is no file and no disk") == 1
