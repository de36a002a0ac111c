"""Images that are packed out of archives and layouts as other programs write them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import zstandard

from tests.images_program import done, images, listed, refused
from tests.processes import Crew, make_crew, names_in, on_the_reactor
from tests.real_registry import layout_digest, make_layout, needs_registry, run

crew = pytest_twisted.async_yield_fixture(make_crew)
pytestmark = needs_registry

_TAGS = ("api", "agent", "proxy")
_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_layout(tmp_path_factory.mktemp("layouts") / "images", _TAGS, 100_000)


@pytest.fixture(scope="module")
def saved(layout: Path) -> Path:
    """What `docker save` writes of two images by their names, and of one by its ID."""
    path = layout.parent / "saved.tar"
    members: dict[str, bytes] = {}
    manifest = []
    for tag in _TAGS:
        one = layout.parent / f"{tag}.tar"
        target = f"docker-archive:{one}:quay.io/kolla/{tag}:2024.1"
        run("skopeo", "copy", "--quiet", f"oci:{layout}:{tag}", target)
        with tarfile.open(one) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    members[member.name] = content.read()
        manifest += json.loads(members["manifest.json"])
    manifest[-1]["RepoTags"] = None
    members["manifest.json"] = json.dumps(manifest).encode()
    _write_tar(path, members)
    return path


def _write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _edit(layout: Path, annotations: dict[str, dict[str, str] | None]) -> None:
    """Give the images of a layout, by their tags, other annotations."""
    path = layout / "index.json"
    index = json.loads(path.read_text())
    for manifest in index["manifests"]:
        [tag] = manifest["annotations"].values()
        manifest["annotations"] = annotations[tag]
    path.write_text(json.dumps(index))


def _exported(layout: Path, folder: Path) -> Path:
    """Make `folder` what `ctr images export` writes, with an image that has no name."""
    shutil.copytree(layout, folder)
    full = {tag: {_REF_NAME: "2024.1", _FULL_NAME: f"quay.io/kolla/{tag}:2024.1"} for tag in _TAGS}
    _edit(folder, {**full, "proxy": None})
    return folder


_NAMED = {"kolla/api:2024.1", "kolla/agent:2024.1"}


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, bytes])
@on_the_reactor
async def test_saved_and_compressed(
    crew: Crew, saved: Path, compress: Callable[[bytes], bytes]
) -> None:
    """At a path with a colon and a blank; what has no name is named."""
    folder = crew.folder / "at 10:00"
    folder.mkdir()
    archive = folder / "a:b.tar"
    archive.write_bytes(compress(saved.read_bytes()))
    image = folder / "image:1.tgz"
    packing = images(crew, "pack", "--output", image, "docker-archive", archive)
    await done(packing)
    assert set(await listed(crew, image)) == _NAMED
    assert names_in(folder) == ["a:b.tar", "image:1.tgz"]
    [line] = [line for line in packing.lines if "left out" in line]
    with tarfile.open(saved) as file:
        manifest: Any = file.extractfile("manifest.json")
        identity = json.load(manifest)[-1]["Config"].removesuffix(".json")
    assert line == (
        f"kollacast-images: {archive}: its image '{identity}' has no name to be pulled by,"
        " and is left out"
    )


@on_the_reactor
async def test_saved_into_a_pipe(crew: Crew, saved: Path) -> None:
    """As with `docker-archive <(ssh HOST docker save …)`."""
    pipe = crew.folder / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(
        target=lambda: pipe.write_bytes(gzip.compress(saved.read_bytes())), daemon=True
    )
    writer.start()
    image = crew.folder / "image.tgz"
    await done(images(crew, "pack", "--output", image, "docker-archive", pipe))
    writer.join()
    assert set(await listed(crew, image)) == _NAMED


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: bz2.compress(data), "it is compressed by bzip2, and only gzip and zstd are"),
        (lambda data: gzip.compress(data)[:-2000], "it is damaged or cut short: "),
        (lambda data: zstandard.compress(data)[:-2000], "it is damaged or cut short: "),
        (lambda data: data[: len(data) // 2], "is nothing that `docker save` wrote"),
        (lambda data: b"", "is nothing that `docker save` wrote"),
    ],
)
@on_the_reactor
async def test_saved_and_spoilt(
    crew: Crew, saved: Path, spoil: Callable[[bytes], bytes], reason: str
) -> None:
    archive = crew.folder / "saved.tar"
    archive.write_bytes(spoil(saved.read_bytes()))
    pack = ("pack", "--output", crew.folder / "image.tgz", "docker-archive", archive)
    assert f"{archive}: {reason}" in await refused(images(crew, *pack))
    assert names_in(crew.folder) == ["saved.tar"]


@pytest.mark.parametrize("is_archive", [False, True])
@on_the_reactor
async def test_exported_by_containerd(crew: Crew, layout: Path, is_archive: bool) -> None:
    """The whole name is beside the tag, which two images share; one has neither."""
    path = _exported(layout, crew.folder / "kolla:2024.1")
    digests = {f"kolla/{tag}:2024.1": layout_digest(layout, tag) for tag in ("api", "agent")}
    if is_archive:
        files = {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}
        path = crew.folder / "kolla:2024.1.tgz"
        _write_tar(path, files)
        path.write_bytes(gzip.compress(path.read_bytes()))
    image = crew.folder / "image.tgz"
    pack = ("pack", "--output", image, "oci")
    packing = images(crew, *pack, path)
    await done(packing)
    assert await listed(crew, image) == digests
    [line] = [line for line in packing.lines if "left out" in line]
    assert line == (
        f"kollacast-images: {path}: its image '{layout_digest(layout, 'proxy')}' has no name to be"
        " pulled by, and is left out"
    )

    name = "quay.io/kolla/agent:2024.1"
    await done(images(crew, *pack, f"{path}:{name}"))
    assert await listed(crew, image) == {"kolla/agent:2024.1": digests["kolla/agent:2024.1"]}
    line = await refused(images(crew, *pack, f"{path}:2024.1"))
    assert f"{path}: has more than one image '2024.1': say which of " in line
    assert name in line
    assert "quay.io/kolla/api:2024.1" in line
    line = await refused(images(crew, *pack, f"{path}:2023.1"))
    assert line == f"kollacast-images: {path}: has no image '2023.1'"


@on_the_reactor
async def test_names_in_a_layout(crew: Crew, layout: Path) -> None:
    """A digest is no name; one behind a name is not part of it; a folder's name need not fit."""
    path = crew.folder / "Kolla, as of 10:00"
    shutil.copytree(layout, path)
    digest = layout_digest(layout, "api")
    _edit(
        path,
        {
            "api": {_REF_NAME: "1"},
            "agent": {_REF_NAME: f"1@{digest}", _FULL_NAME: f"localhost/b:1@{digest}"},
            "proxy": {_REF_NAME: f"@{digest}", _FULL_NAME: f"quay.io/kolla/c@{digest}"},
        },
    )
    image = crew.folder / "image.tgz"
    packing = images(crew, "pack", "--output", image, "oci", path)
    await done(packing)
    assert set(await listed(crew, image)) == {"kolla-as-of-10-00:1", "b:1"}
    assert sum("left out" in line for line in packing.lines) == 1


@on_the_reactor
async def test_an_image_for_several_machines(crew: Crew, layout: Path) -> None:
    """An index in the layout's index, as BuildKit writes it: the image for this machine."""
    path = crew.folder / "layout"
    shutil.copytree(layout, path)
    index = json.loads((path / "index.json").read_text())
    [inner] = [each for each in index["manifests"] if "agent" in each["annotations"].values()]
    config = json.loads(run("skopeo", "inspect", "--config", f"oci:{layout}:agent"))
    inner |= {"platform": {key: config[key] for key in ("architecture", "os")}, "annotations": {}}
    other = {**inner, "platform": {"architecture": "s390x", "os": "linux"}}
    media = "application/vnd.oci.image.index.v1+json"
    children = {"schemaVersion": 2, "mediaType": media, "manifests": [other, inner]}
    data = json.dumps(children).encode()
    blob = path / "blobs" / "sha256" / "new"
    blob.write_bytes(data)
    digest = run("sha256sum", blob).split()[0]
    blob.rename(blob.with_name(digest))
    names = {_REF_NAME: "1", _FULL_NAME: "docker.io/kolla/agent:1"}
    outer = {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}
    index["manifests"] = [{**outer, "annotations": names}]
    (path / "index.json").write_text(json.dumps(index))
    image = crew.folder / "image.tgz"
    await done(images(crew, "pack", "--output", image, "oci", path))
    assert await listed(crew, image) == {"kolla/agent:1": inner["digest"]}


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("[]", "index.json: is no index of an OCI layout"),
        ('{"manifests": [1]}', "index.json: is no index of an OCI layout"),
        ('{"manifests": [{"digest": "sha256:00"}]}', "no image in it has a name"),
    ],
)
@on_the_reactor
async def test_layouts_that_are_none(crew: Crew, index: str, reason: str) -> None:
    path = crew.folder / "layout"
    path.mkdir()
    (path / "index.json").write_text(index)
    packing = images(crew, "pack", "--output", crew.folder / "image.tgz", "oci", path)
    assert await packing.end() == 1
    assert reason in packing.lines[-1]
    text = crew.folder / "text"
    text.write_text("no archive")
    line = await refused(images(crew, "pack", "--output", crew.folder / "x.tgz", "oci", text))
    assert line == f"kollacast-images: {text}: is neither an OCI layout nor an archive of one"
    assert names_in(crew.folder) == ["layout", "text"]
