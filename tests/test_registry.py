"""From a registry to a registry on another host: real images, real registries, real processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.processes import Crew, Program, ends, image_of, make_crew, names_in, on_the_reactor
from tests.real_registry import layout_digest, make_layout, needs_registry, pull, push, serving

crew = pytest_twisted.async_yield_fixture(make_crew)
pytestmark = needs_registry

_TAGS = ("api", "agent", "proxy")


@dataclass(frozen=True)
class _Source:
    """Images in a layout, and pushed to a registry as `kolla/TAG:2024.1`."""

    layout: Path
    root: Path  #: of the registry, which runs
    address: str

    @property
    def digests(self) -> dict[str, str]:
        return {f"kolla/{tag}:2024.1": layout_digest(self.layout, tag) for tag in _TAGS}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Source]:
    folder = tmp_path_factory.mktemp("source")
    layout = make_layout(folder / "images", _TAGS)
    root = folder / "registry"
    with serving(root, folder / "registry.json") as address:
        for tag in _TAGS:
            push(layout, tag, address, f"kolla/{tag}:2024.1")
        yield _Source(layout, root, address)


def _images(crew: Crew, *words: str | Path, **more: Any) -> Program:
    """Start ``python -m kollacast.images``."""
    argv = [sys.executable, "-m", "kollacast.images", *map(str, words)]
    return crew.start(argv, "images", **more)


async def _done(program: Program) -> str:
    """Standard output of a program that has to succeed."""
    assert await program.end() == 0, program.errors
    return program.output.decode()


async def _refused(program: Program, status: int = 1) -> str:
    """The one line that a program leaves which has to fail."""
    assert await program.end() == status, program.errors
    [line] = program.lines
    return line


async def _listed(crew: Crew, path: Path) -> dict[str, str]:
    fields = json.loads(await _done(_images(crew, "list", path, "--json")))
    return {f"{image['repository']}:{image['tag']}": image["digest"] for image in fields["images"]}


@on_the_reactor
async def test_from_a_registry_to_a_registry_on_another_host(crew: Crew, source: _Source) -> None:
    """Packed while the registry runs, sent, unpacked as it comes, served, pulled."""
    image = crew.folder / "kolla_image.tgz"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    assert await _listed(crew, image) == source.digests
    root = crew.folder / "host"
    server = crew.server("--input", str(image))
    client = crew.client("--registry-root", str(root))
    assert await ends(server, client) == [0, 0], client.errors
    with serving(root / "current", crew.folder / "registry.json") as address:
        for name, digest in source.digests.items():
            assert pull(address, name, crew.folder / name.replace("/", "-")) == digest
    status = json.loads(await _done(_images(crew, "status", "--root", root, "--json")))
    assert status["sha256"] in client.lines[-1]
    assert status["bytes"] == image.stat().st_size
    assert {i["digest"] for i in status["images"]} == set(source.digests.values())


@on_the_reactor
async def test_bad_images_leave_the_version_before(crew: Crew, source: _Source) -> None:
    good = crew.folder / "good.tar"
    pack = ("pack", "--compression", "none", "--output", good, "storage", source.root)
    await _done(_images(crew, *pack))
    root = crew.folder / "host"
    await _done(_images(crew, "unpack", "--root", root, good))
    archive = bytearray(good.read_bytes())
    cut = crew.file("cut.tar", bytes(archive[: len(archive) // 2]))
    archive[len(archive) // 3] ^= 0xFF
    for path, reason in (
        (crew.file("noise", image_of(300_000)), "it is no tar archive of a registry's storage"),
        (cut, "it is cut short"),
        (crew.file("damaged.tar", bytes(archive)), "is damaged: the bytes have another digest"),
    ):
        assert reason in await _refused(_images(crew, "list", path))
        assert reason in await _refused(_images(crew, "unpack", "--root", root, path))
        server = crew.server("--input", str(path))
        client = crew.client("--registry-root", str(root))
        assert await ends(server, client) == [1, 1], client.errors
        assert "cannot write the image: it" in client.lines[-1]
        assert reason in client.lines[-1]
        assert reason in server.lines[-1]
        assert "Traceback" not in client.errors
        assert names_in(root) == ["current", "versions"]
        assert names_in(root / "versions") == ["1"]
    with serving(root / "current", crew.folder / "registry.json") as address:
        for name, digest in source.digests.items():
            assert pull(address, name, crew.folder / name.replace("/", "-")) == digest


@on_the_reactor
async def test_a_second_unpacking_does_nothing(crew: Crew, source: _Source) -> None:
    image, root = crew.folder / "image.tgz", crew.folder / "host"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    for expected in ([], [f"kollacast-images: {root}: has this image already"]):
        program = _images(crew, "unpack", "--root", root, image)
        await _done(program)
        assert program.lines == expected
        assert names_in(root / "versions") == ["1"]


@on_the_reactor
async def test_interrupted_client_leaves_nothing(crew: Crew, source: _Source) -> None:
    image, root = crew.folder / "image.tgz", crew.folder / "host"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    server = crew.server(stdin="pipe")
    server.write(image.read_bytes()[: image.stat().st_size // 2])
    client = crew.client("--registry-root", str(root))
    await crew.until(lambda: any(root.glob("versions/.*.part/**/data")), "a blob")
    client.send_signal(15)
    assert await client.end() == -15
    assert names_in(root) == ["versions"]
    assert names_in(root / "versions") == []
