"""From a registry to a registry on another host: real images, real registries, real processes."""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_twisted

from tests import hostile_images
from tests.images_program import done as _done
from tests.images_program import images as _images
from tests.images_program import listed as _listed
from tests.images_program import refused as _refused
from tests.processes import (
    LOOPBACK,
    Crew,
    ends,
    image_of,
    make_crew,
    names_in,
    on_the_reactor,
)
from tests.real_registry import layout_digest, make_layout, needs_registry, pull, push, run, serving

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
async def test_pack_references(crew: Crew, source: _Source) -> None:
    """Pulled from a registry that has no certificate, and called the same without its host."""
    image = crew.folder / "image.tgz"
    names = [f"{source.address}/{name}" for name in source.digests]
    pack = ("pack", "--output", image, "images", "--no-tls-verify")
    await _done(_images(crew, *pack, *names))
    assert await _listed(crew, image) == source.digests
    assert names_in(crew.folder) == ["image.tgz"]


@on_the_reactor
async def test_pack_layouts(crew: Crew, source: _Source) -> None:
    """All images of a layout, and one of them; without a repository they get the layout's name."""
    image = crew.folder / "image.tar.zst"
    pack = ("pack", "--output", image, "--compression", "zstd", "oci")
    expected = {f"layout:{tag}": layout_digest(source.layout, tag) for tag in _TAGS}
    await _done(_images(crew, *pack, source.layout))
    assert await _listed(crew, image) == expected
    await _done(_images(crew, *pack, f"{source.layout}:agent"))
    assert await _listed(crew, image) == {"layout:agent": expected["layout:agent"]}


@on_the_reactor
async def test_pack_docker_archives(crew: Crew, source: _Source) -> None:
    """What `docker save` writes: layers not compressed, so the registry's digest is a new one."""
    archives = []
    for tag in _TAGS[:2]:
        archives.append(crew.folder / f"{tag}.tar")
        target = f"docker-archive:{archives[-1]}:quay.io/kolla/{tag}:2024.1"
        run("skopeo", "copy", "--quiet", f"oci:{source.layout}:{tag}", target)
    image = crew.folder / "image.tgz"
    await _done(_images(crew, "pack", "--output", image, "docker-archive", *archives))
    listed = await _listed(crew, image)
    assert set(listed) == {f"kolla/{tag}:2024.1" for tag in _TAGS[:2]}
    root = crew.folder / "host"
    await _done(_images(crew, "unpack", "--root", root, image))
    with serving(root / "current", crew.folder / "registry.json") as address:
        for tag in _TAGS[:2]:
            name = f"kolla/{tag}:2024.1"
            assert pull(address, name, crew.folder / tag) == listed[name]
            # the same layers, by the configuration's digest of each without compression
            there, here = (
                json.loads(run("skopeo", "inspect", "--config", *words))["rootfs"]["diff_ids"]
                for words in (
                    (f"oci:{source.layout}:{tag}",),
                    ("--tls-verify=false", f"docker://{address}/{name}"),
                )
            )
            assert there == here


@on_the_reactor
async def test_namespace(crew: Crew, source: _Source) -> None:
    """Docker takes a first part with a dot for a registry's host: said, and given back."""
    archive, image = crew.folder / "saved.tar", crew.folder / "image.tgz"
    for tag in _TAGS[:2]:
        run(
            *("skopeo", "copy", "--quiet", f"oci:{source.layout}:{tag}"),
            f"docker-archive:{crew.folder / tag}.tar:openstack.kolla/{tag}:2024.1",
        )
    run(
        *("skopeo", "copy", "--quiet", f"oci:{source.layout}:{_TAGS[0]}"),
        f"docker-archive:{archive}:quay.io/other/{_TAGS[0]}:2024.1",
    )
    archives = [*(crew.folder / f"{tag}.tar" for tag in _TAGS[:2]), archive]
    pack = ("pack", "--output", image, "docker-archive")
    packing = _images(crew, *pack, *archives)
    await _done(packing)
    line = f"without a namespace: {_TAGS[0]}:2024.1 and 1 more; --namespace NAME gives one"
    assert packing.lines[-1] == f"kollacast-images: {line}"
    assert "3 images of the tag 2024.1, " in packing.lines[-2]
    other = f"other/{_TAGS[0]}:2024.1"
    assert set(await _listed(crew, image)) == {other, *(f"{tag}:2024.1" for tag in _TAGS[:2])}
    packing = _images(crew, *pack, "--namespace", "openstack.kolla", *archives)
    await _done(packing)
    assert not [line for line in packing.lines if "without a namespace" in line]
    named = {f"openstack.kolla/{tag}:2024.1" for tag in _TAGS[:2]}
    assert set(await _listed(crew, image)) == {other, *named}
    listing = await _done(_images(crew, "list", image))
    *_, summary, sha256, tree = listing.splitlines()
    assert "3 images of the tag 2024.1, " in summary
    assert sha256 == f"sha256:{hashlib.sha256(image.read_bytes()).hexdigest()}"
    digests = await _done(_images(crew, "digest", image))
    assert digests.splitlines() == [sha256, tree]


@on_the_reactor
async def test_check_by_the_status_of_another_host(crew: Crew, source: _Source) -> None:
    """What one host has, looked for in a registry on another."""
    image, root = crew.folder / "image.tgz", crew.folder / "host"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    await _done(_images(crew, "unpack", "--root", root, image))
    status = crew.folder / "status.json"
    status.write_text(await _done(_images(crew, "status", "--root", root, "--json")))
    words = ("check", "--status", status, "--registry")
    with serving(root / "current", crew.folder / "registry.json") as address:
        listed = await _done(_images(crew, *words, address))
    *images, count = listed.splitlines()
    assert [line.split()[0] for line in images] == sorted(source.digests)
    assert count == "3 images: 3 manifests and 9 blobs are served"
    with serving(crew.folder / "empty", crew.folder / "registry.json") as address:
        assert "does not serve" in await _refused(_images(crew, *words, address))
    status.write_text('{"images": [1]}')
    line = f"kollacast-images: {status}: is no record of a received image"
    assert await _refused(_images(crew, *words, address)) == line


@on_the_reactor
async def test_check(crew: Crew, source: _Source) -> None:
    """Only a registry that serves every image as it was sent is good."""
    image, root = crew.folder / "image.tgz", crew.folder / "host"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    address = f"{LOOPBACK}:{crew.port}"
    check = ("check", "--root", root, "--registry")
    assert await _refused(_images(crew, *check, address)) == (
        f"kollacast-images: {root}: has no image"
    )
    await _done(_images(crew, "unpack", "--root", root, image))
    assert await _refused(_images(crew, *check, address, "--timeout", "1")) == (
        f"kollacast-images: no registry answers at {address} within 1 s: Connection refused"
    )
    with serving(root / "current", crew.folder / "registry.json", crew.port):
        listed = await _done(_images(crew, *check, address))
    assert [line.split()[:2] for line in listed.splitlines()[:-1]] == [
        [name, digest] for name, digest in sorted(source.digests.items())
    ]
    with serving(crew.folder / "empty", crew.folder / "registry.json", crew.port):
        assert "does not serve kolla/agent:2024.1: status 404" in await _refused(
            _images(crew, *check, address)
        )
    other = crew.folder / "other"
    with serving(other, crew.folder / "registry.json", crew.port):
        push(source.layout, "api", address, "kolla/agent:2024.1")
        assert "serves another kolla/agent:2024.1" in await _refused(_images(crew, *check, address))


@on_the_reactor
async def test_check_waits_for_the_registry(crew: Crew, source: _Source) -> None:
    image, root = crew.folder / "image.tgz", crew.folder / "host"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    await _done(_images(crew, "unpack", "--root", root, image))
    with socket.create_server((LOOPBACK, crew.port)) as early:
        address = f"{LOOPBACK}:{crew.port}"
        check = _images(crew, "check", "--root", root, "--registry", address)
        await crew.until(lambda: bool(select.select([early], [], [], 0)[0]), "an attempt")
        early.accept()[0].close()
    with serving(root / "current", crew.folder / "registry.json", crew.port):
        await _done(check)


@on_the_reactor
async def test_check_of_a_port_that_something_else_has(crew: Crew, source: _Source) -> None:
    image, root = crew.folder / "image.tgz", crew.folder / "host"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    await _done(_images(crew, "unpack", "--root", root, image))
    command = [sys.executable, "-u", "-m", "http.server", "--bind", LOOPBACK, str(crew.port)]
    web = crew.start(command, "web")
    await web.gave(1)
    address = f"{LOOPBACK}:{crew.port}"
    line = await _refused(_images(crew, "check", "--root", root, "--registry", address))
    assert line == f"kollacast-images: what answers at {address} is no registry"


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        ("", 2, "the following arguments are required: COMMAND"),
        ("pack --output out.tgz", 2, "required: SOURCE"),
        ("pack --output no/such/out.tgz storage .", 2, "--output no/such/out.tgz: cannot be"),
        ("pack --output out.tgz --compression xz storage .", 2, "invalid choice: 'xz'"),
        ("pack --output out.tgz storage .", 1, ".: is no registry's root directory"),
        ("pack --output out.tgz oci nowhere", 1, "nowhere/index.json: No such file"),
        ("pack --output out.tgz oci .", 1, ".: is no OCI layout: it has no index.json"),
        ("pack --output out.tgz docker-archive nowhere", 1, "nowhere: No such file"),
        ("pack --output out.tgz images host:1/a/b@sha256:00", 1, "an image needs a tag"),
        ("pack --output out.tgz images a:1 localhost/a:1", 1, "two images would be called a:1"),
        ("pack --output out.tgz images 127.0.0.1:1/a:1", 1, "skopeo: "),
        ("pack --output out.tgz oci --namespace A/ x", 2, "'A/' is no namespace"),
        ("check --registry h:1", 2, "one of the arguments --root --status is required"),
        ("check --registry h:1 --status nowhere", 1, "nowhere: No such file or directory"),
        ("status --root nowhere", 1, "nowhere: No such file or directory"),
        ("list nowhere", 1, "nowhere: No such file or directory"),
        ("unpack --root /dev/null/x nowhere", 2, "--root /dev/null/x: cannot be written"),
        ("check --registry nowhere --root .", 2, "--registry 'nowhere': must be host:port"),
        ("check --registry h:1 --root . --timeout x", 2, "--timeout 'x': must be seconds"),
    ],
)
@on_the_reactor
async def test_wrong_command_lines(crew: Crew, words: str, status: int, reason: str) -> None:
    line = await _refused(_images(crew, *words.split()), status)
    assert reason in line
    assert names_in(crew.folder) == []


@on_the_reactor
async def test_damaged_storage_is_not_packed(crew: Crew, source: _Source) -> None:
    root = crew.folder / "registry"
    shutil.copytree(source.root, root)
    blob = max(root.glob("docker/registry/v2/blobs/**/data"), key=lambda path: path.stat().st_size)
    blob.write_bytes(bytes(blob.stat().st_size))
    pack = ("pack", "--output", "image.tgz", "storage", root)
    assert f"{blob}: is damaged" in await _refused(_images(crew, *pack))
    blob.unlink()
    assert "lacks the blob sha256:" in await _refused(_images(crew, *pack))
    assert names_in(crew.folder) == ["registry"]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@on_the_reactor
async def test_same_storage_same_file(crew: Crew, source: _Source, compression: str) -> None:
    """Also from a copy of the storage, in which every time is another and the order may be."""
    copy = crew.folder / "copy"
    shutil.copytree(source.root, copy, copy_function=shutil.copyfile)
    pack = ("pack", "--compression", compression, "--output")
    await _done(_images(crew, *pack, "one", "storage", source.root))
    await _done(_images(crew, *pack, "two", "storage", copy))
    assert (crew.folder / "one").read_bytes() == (crew.folder / "two").read_bytes()


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
async def test_images_that_were_made_to_do_harm(crew: Crew, source: _Source) -> None:
    """Whatever comes, a host takes the next image; where it was is what it was, and no memory."""
    good, root = crew.folder / "good.tgz", crew.folder / "host"
    await _done(_images(crew, "pack", "--output", good, "storage", source.root))
    for name, archive, reason in (
        ("deep", hostile_images.deep(1900), "has a name of more than 1024 bytes"),
        ("inodes", hostile_images.inodes(300, 124), "files and folders, in its first"),
        ("records", hostile_images.overlapping_records(), "an extended header that makes no sense"),
    ):
        path = crew.file(name, hostile_images.compressed(archive))
        server = crew.server("--input", str(path))
        client = crew.client("--registry-root", str(root), prefix=_IN_LITTLE_MEMORY)
        assert await ends(server, client) == [1, 1], client.errors
        assert "cannot write the image: it" in client.lines[-1]
        assert reason in client.lines[-1]
        assert reason in server.lines[-1]
        assert "Traceback" not in client.errors
        assert not root.exists()
    server = crew.server("--input", str(good))
    client = crew.client("--registry-root", str(root), prefix=_IN_LITTLE_MEMORY)
    assert await ends(server, client) == [0, 0], client.errors


#: Address space of a client that unpacks; one such image took a gigabyte more.
_IN_LITTLE_MEMORY = ("sh", "-c", 'ulimit -v 1100000; exec "$@"', "sh")


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
@pytest.mark.parametrize("reserve", ["5", "0"])
@on_the_reactor
async def test_image_larger_than_the_disk(crew: Crew, source: _Source, reserve: str) -> None:
    """Which has room for the version before, and for half of the next.

    That is seen before it begins, or by the kernel where nothing is to stay free.
    """
    image, older = crew.folder / "image.tgz", crew.folder / "older"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    await _done(_images(crew, "unpack", "--root", older, image))
    small = crew.folder / "small"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size={image.stat().st_size * 3 // 2} none small"
        ' && cp -a older/. small && "$@"; status=$?; ls -A small/versions >listing'
        " && diff -r older small && exit $status"
    )
    server = crew.server("--input", str(image))
    client = crew.client(
        *("--registry-root", "small", "--reserve", reserve),
        prefix=("unshare", "-m", "sh", "-c", script, "sh"),
    )
    assert await ends(server, client) == [1, 1], client.errors
    reason = "kollacast-client: cannot write the image: No space left on device"
    assert client.lines[-1].startswith(reason)
    assert client.lines[-1].endswith("(--reserve)") == (reserve != "0")
    assert "cannot write the image: No space left on device" in server.lines[-1]
    assert (crew.folder / "listing").read_text() == "1\n"


@on_the_reactor
async def test_client_that_was_killed_begins_anew(crew: Crew, source: _Source) -> None:
    """What it had is of no use to the next one, and goes."""
    image, root = crew.folder / "image.tgz", crew.folder / "host"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    server = crew.server(stdin="pipe")
    server.write(image.read_bytes()[: image.stat().st_size // 2])
    client = crew.client("--registry-root", str(root))
    await crew.until(lambda: any(root.glob("versions/.*.part/**/data")), "a blob")
    client.send_signal(signal.SIGKILL)
    await client.end()
    server.send_signal(signal.SIGTERM)
    await server.end()
    server = crew.server("--input", str(image))
    client = crew.client("--registry-root", str(root))
    assert await ends(server, client) == [0, 0], client.errors
    assert names_in(root / "versions") == ["1"]


@on_the_reactor
async def test_a_second_unpacking_does_nothing(crew: Crew, source: _Source) -> None:
    image, root = crew.folder / "image.tgz", crew.folder / "host"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    for expected in ([], [f"kollacast-images: {root}: has this image already"]):
        program = _images(crew, "unpack", "--root", root, image)
        await _done(program)
        assert program.lines == expected
        assert names_in(root / "versions") == ["1"]


@pytest.mark.parametrize("name", ["current", "previous"])
@on_the_reactor
async def test_a_directory_in_the_place_of_a_link(crew: Crew, name: str) -> None:
    """As an engine makes it that is to mount what is not there yet: named before anything comes."""
    root = crew.folder / "host"
    (root / name).mkdir(parents=True)
    reason = f"{root}: cannot be written: {root / name} is a directory, in the place of a link"
    unpack = ("unpack", "--root", root, "nowhere")
    assert f"--root {reason}" in await _refused(_images(crew, *unpack), 2)
    client = crew.client("--registry-root", str(root))
    assert f"--registry-root {reason}" in await _refused(client, 2)
    assert names_in(root) == [name]


@on_the_reactor
async def test_interrupted_client_leaves_nothing(crew: Crew, source: _Source) -> None:
    image, root = crew.folder / "image.tgz", crew.folder / "host"
    await _done(_images(crew, "pack", "--output", image, "storage", source.root))
    server = crew.server(stdin="pipe")
    server.write(image.read_bytes()[: image.stat().st_size // 2])
    client = crew.client("--registry-root", str(root))
    await crew.until(lambda: any(root.glob("versions/.*.part/**/data")), "a blob")
    client.send_signal(signal.SIGTERM)
    assert await client.end() == -signal.SIGTERM
    assert not root.exists()
