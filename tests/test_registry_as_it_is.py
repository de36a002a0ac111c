"""Storages as real registries, operators and GNU tar leave them: judged as the registry does."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kollacast.images.archive import read_storage
from kollacast.images.check import check_registry
from kollacast.images.layout import BadImage
from kollacast.images.pack import pack_storage
from kollacast.images.unpack import unpack_file
from kollacast.images.versions import read_record
from tests.processes import PATIENCE_S
from tests.real_registry import (
    ask,
    layout_digest,
    make_layout,
    needs_registry,
    pull,
    push,
    push_blob,
    push_manifest,
    run,
    serving,
)
from tests.registry_storage import STORAGE, blob_path, storage_of, write_storage

pytestmark = needs_registry

_TAGS = ("amd", "arm")
_NAME = "kolla/amd:1"
_HOME = "repositories/kolla/amd"
_INDEX = "kolla/amd:all"
_OCI = "application/vnd.oci.image"


class _Source:
    """A registry with two images, and an index of both in the repository of the first."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "registry"
        self.config = folder / "registry.json"
        layout = make_layout(folder / "images", _TAGS, layer_bytes=100_000)
        self.digests = [layout_digest(layout, tag) for tag in _TAGS]
        with serving(self.root, self.config) as address:
            for tag in _TAGS:
                push(layout, tag, address, f"kolla/{tag}:1")
                push(layout, tag, address, f"kolla/amd:{tag}")
            self.index = push_manifest(address, _INDEX, self._index())

    def _index(self) -> dict[str, object]:
        children = [
            {
                "mediaType": f"{_OCI}.manifest.v1+json",
                "digest": digest,
                "size": (self.root / STORAGE / blob_path(digest)).stat().st_size,
                "platform": {"os": "linux", "architecture": f"{tag}64"},
            }
            for digest, tag in zip(self.digests, _TAGS, strict=True)
        ]
        return {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": children}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> _Source:
    return _Source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def copy(source: _Source, tmp_path: Path) -> Path:
    """The root directory of a registry that is like the source's."""
    root = tmp_path / "registry"
    shutil.copytree(source.root, root)
    return root


def _link(root: Path, kind: str, digest: str) -> Path:
    return root / STORAGE / _HOME / kind / digest.replace(":", "/") / "link"


def _layer(source: _Source) -> str:
    manifest = json.loads((source.root / STORAGE / blob_path(source.digests[0])).read_text())
    return str(manifest["layers"][-1]["digest"])


def _remove_revision(source: _Source, root: Path, config: Path) -> str:
    _link(root, "_manifests/revisions", source.digests[0]).unlink()
    return f"its image {_NAME} lacks"


def _remove_layer_link(source: _Source, root: Path, config: Path) -> str:
    _link(root, "_layers", _layer(source)).unlink()
    return f"lacks the link in its repository to the blob {_layer(source)}"


def _empty_tag(source: _Source, root: Path, config: Path) -> str:
    (root / STORAGE / _HOME / "_manifests/tags/1/current/link").write_bytes(b"")
    return f"its image {_NAME} lacks the link of its tag"


def _delete_blob(source: _Source, root: Path, config: Path) -> str:
    with serving(root, config) as address:
        status, _ = ask("DELETE", f"http://{address}/v2/kolla/amd/blobs/{_layer(source)}")
        assert status == 202
    return f"lacks the link in its repository to the blob {_layer(source)}"


def _delete_and_collect(source: _Source, root: Path, config: Path) -> str:
    with serving(root, config) as address:
        ask("DELETE", f"http://{address}/v2/kolla/amd/blobs/{_layer(source)}")
    shutil.rmtree(root / STORAGE / blob_path(_layer(source)).removesuffix("/data"))
    return f"the blob {_layer(source)}"


def _collect_untagged(source: _Source, root: Path, config: Path) -> str:
    """Which takes the manifests of an index for untagged ones."""
    tags = root / STORAGE / _HOME / "_manifests/tags"
    for tag in ("1", *_TAGS):
        shutil.rmtree(tags / tag)
    with serving(root, config):
        pass
    run("docker-registry", "garbage-collect", "-m", config)
    return f"its image {_INDEX} lacks every image of its index {source.index}"


@pytest.mark.parametrize(
    "spoil",
    [
        _remove_revision,
        _remove_layer_link,
        _empty_tag,
        _delete_blob,
        _delete_and_collect,
        _collect_untagged,
    ],
)
def test_what_no_registry_can_serve(
    source: _Source, copy: Path, tmp_path: Path, spoil: Callable[[_Source, Path, Path], str]
) -> None:
    """The registry does not serve it, `pack` refuses it, and `list` an archive of it by tar."""
    config = tmp_path / "registry.json"
    reason = spoil(source, copy, config)
    name = _INDEX if spoil is _collect_untagged else _NAME
    with serving(copy, config) as address, pytest.raises(AssertionError):
        pull(address, name, tmp_path / "pulled")
    with pytest.raises(BadImage) as packing:
        pack_storage(str(copy), str(tmp_path / "image.tar"), "none")
    assert reason in str(packing.value.strerror)
    assert not (tmp_path / "image.tar").exists()
    archive = tmp_path / "by-tar.tar"
    run("tar", "-cf", archive, "-C", copy, "docker")
    with archive.open("rb") as file, pytest.raises(BadImage) as listing:
        read_storage(file)
    assert reason in str(listing.value.strerror)


def _unpacked(root: Path, folder: Path) -> Path:
    """What a host has of this registry, in the root that is returned."""
    image, host = folder / "image.tar", folder / "host"
    pack_storage(str(root), str(image), "none")
    with image.open("rb") as file:
        unpack_file(file, str(host), lambda _: None)
    return host


def test_an_index_of_which_one_image_was_never_pushed(
    source: _Source, copy: Path, tmp_path: Path
) -> None:
    """It is served to the machines that have theirs, and `check` does not ask for the other."""
    missing = source.digests[1]
    _link(copy, "_manifests/revisions", missing).unlink()
    shutil.rmtree(copy / STORAGE / _HOME / "_manifests/tags/arm")
    host = _unpacked(copy, tmp_path)
    record = read_record(str(host))
    assert record is not None
    assert {image.name: image.absent for image in record.images if image.absent} == {
        _INDEX: (missing,)
    }
    with serving(host / "current", tmp_path / "registry.json") as address:
        served = check_registry(address, record.images, 5)
        assert pull(address, _NAME, tmp_path / "pulled") == source.digests[0]
    # Manifests: the image, the index of it, and the other one in a repository of its own.
    assert (served.manifests, served.blobs) == (3, 6)


def test_check_asks_for_all_that_a_pull_asks_for(
    source: _Source, copy: Path, tmp_path: Path
) -> None:
    host = _unpacked(copy, tmp_path)
    record = read_record(str(host))
    assert record is not None
    current, layer = host / "current", _layer(source)
    config = tmp_path / "registry.json"
    with serving(current, config) as address:
        served = check_registry(address, record.images, 5)
        # In one repository two images, the index, and what both share counts once.
        assert (served.manifests, served.blobs) == (4, 8)
    for path, reason in (
        (_link(current, "_layers", layer), f"does not serve the blob {layer} of kolla/amd:"),
        (current / STORAGE / blob_path(layer), f"does not serve the blob {layer} of kolla/amd:"),
        (
            _link(current, "_manifests/revisions", source.digests[1]),
            "does not serve kolla/amd:arm: status 404",
        ),
    ):
        data = path.read_bytes()
        path.unlink()
        with serving(current, config) as address, pytest.raises(OSError, match=reason):
            check_registry(address, record.images, 5)
        path.write_bytes(data)
    blob = current / STORAGE / blob_path(layer)
    size = blob.stat().st_size
    blob.write_bytes(b"")
    reason = f"serves 0 bytes for the blob {layer} of kolla/amd:.*, and not {size}"
    with serving(current, config) as address, pytest.raises(OSError, match=reason):
        check_registry(address, record.images, 5)


def test_a_storage_on_several_volumes(source: _Source, copy: Path, tmp_path: Path) -> None:
    """What the registry serves through symbolic links, the one on the host serves, too."""
    repositories = copy / STORAGE / "repositories"
    (tmp_path / "volume").mkdir()
    for path in (repositories / "kolla", copy / STORAGE / "blobs" / "sha256"):
        there = tmp_path / "volume" / path.name
        path.rename(there)
        path.symlink_to(there)
    (repositories / "openstack.kolla").symlink_to("kolla")
    (repositories / "library").symlink_to(".")
    names = (_NAME, "openstack.kolla/arm:1", "library/kolla/arm:1")
    expected = [source.digests[0], source.digests[1], source.digests[1]]
    for root in (copy, _unpacked(copy, tmp_path) / "current"):
        with serving(root, tmp_path / "registry.json") as address:
            pulled = [
                pull(address, name, tmp_path / f"pulled-{root.name}-{i}")
                for i, name in enumerate(names)
            ]
            assert pulled == expected
    links = [path for path in (tmp_path / "host/versions").rglob("*") if path.is_symlink()]
    assert links == []


def test_blobs_by_other_digests(source: _Source, tmp_path: Path) -> None:
    """The registry keeps them under SHA-256, with a link; so does the one on the host."""
    root, config = tmp_path / "registry", tmp_path / "registry.json"
    with serving(root, config) as address:
        settings = push_blob(address, "kolla/one", b"{}", "sha256")
        layers = [
            push_blob(address, "kolla/one", name.encode(), name) for name in ("sha384", "sha512")
        ]
        kinds = [(settings, "config.v1+json", 2), *((d, "layer.v1.tar", 6) for d in layers)]
        parts = [{"mediaType": f"{_OCI}.{k}", "digest": d, "size": s} for d, k, s in kinds]
        fields: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": parts[0],
            "layers": parts[1:],
        }
        push_manifest(address, "kolla/one:1", fields)
    host = _unpacked(root, tmp_path)
    record = read_record(str(host))
    assert record is not None
    with serving(host / "current", config) as address:
        assert check_registry(address, record.images, 5).blobs == 3
    # Its garbage collection does not know them by that name, and takes them.
    run("docker-registry", "garbage-collect", config.with_name(_config_of(root, config)))
    with pytest.raises(BadImage, match=f"its image kolla/one:1 lacks the blob {layers[0]}"):
        pack_storage(str(root), str(tmp_path / "image.tar"), "none")


def _config_of(root: Path, config: Path) -> str:
    """A configuration for this root directory beside another one."""
    fields = json.loads(config.read_text())
    fields["storage"]["filesystem"]["rootdirectory"] = str(root)
    config.with_name("other.json").write_text(json.dumps(fields))
    return "other.json"


_ZEROS = bytes(300_000)
_FILES = storage_of(
    {
        "kolla/one:1": [_ZEROS + b"data" + _ZEROS, b"one"],
        "kolla/two:1": [b"data" + _ZEROS, b"two"],
    }
)


def _tar(*words: str | Path) -> None:
    """Have GNU tar work, in the folder of its archive."""
    folder = next(word.parent for word in words if isinstance(word, Path))
    subprocess.run(["tar", *map(str, words)], check=True, timeout=PATIENCE_S, cwd=folder)


def _as_unpacked(archive: Path, folder: Path) -> dict[str, bytes]:
    """The files that a host has of an archive."""
    with archive.open("rb") as file:
        unpack_file(file, str(folder), lambda _: None)
    storage = folder / "current" / STORAGE
    return {
        str(path.relative_to(storage)): path.read_bytes()
        for path in storage.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--format=gnu", "--sparse"),
        *(("--format=posix", "--sparse", f"--sparse-version={n}") for n in ("0.0", "0.1", "1.0")),
        ("--format=posix",),
    ],
)
def test_what_gnu_tar_writes(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Of a tree with holes in its files, and with equal files that are links to each other."""
    root = tmp_path / "registry"
    write_storage(root, _FILES)
    first: dict[bytes, Path] = {}
    for path in sorted((root / STORAGE).rglob("*")):
        if path.is_file() and path.name == "link":
            same = first.setdefault(path.read_bytes(), path)
            if same != path:
                path.unlink()
                os.link(same, path)
        elif path.is_file():
            run("fallocate", "--dig-holes", path)
    archive = tmp_path / "image.tar"
    _tar(*words, "-cf", archive, "-C", root, "docker")
    if "--sparse" in words:
        assert archive.stat().st_size < len(_ZEROS)
    assert _as_unpacked(archive, tmp_path / "host") == _FILES


def test_archives_that_were_added_to(tmp_path: Path) -> None:
    """By `tar -r` after a tag has changed, by `tar -A`, and by `cat`."""
    root, other = tmp_path / "registry", tmp_path / "other"
    archive, more = tmp_path / "image.tar", tmp_path / "more.tar"
    write_storage(root, _FILES)
    _tar("-cf", archive, "-C", root, "docker")
    new = storage_of({"kolla/one:1": [b"newer"], "kolla/three:1": [b"three"]})
    write_storage(other, new)
    _tar("-cf", more, "-C", other, "docker")
    both = {**_FILES, **new}

    appended = tmp_path / "appended.tar"
    shutil.copy(archive, appended)
    _tar("-rf", appended, "-C", other, "docker")
    joined = tmp_path / "joined.tar"
    shutil.copy(archive, joined)
    _tar("-Af", joined, more)
    behind = tmp_path / "behind.tar"
    behind.write_bytes(archive.read_bytes() + more.read_bytes())
    for path in (appended, joined, behind):
        assert _as_unpacked(path, tmp_path / path.stem) == both
        listed = read_storage(io.BytesIO(path.read_bytes())).images()
        record = read_record(str(tmp_path / path.stem))
        assert record is not None
        assert record.images == listed


def test_a_registry_that_is_pushed_to_meanwhile(tmp_path: Path) -> None:
    """It truncates the links of what it has already, and writes them again."""
    root, repository = tmp_path / "registry", "kolla/one"
    with serving(root, tmp_path / "registry.json") as address:
        settings = push_blob(address, repository, b"{}", "sha256")
        fields: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": {"mediaType": f"{_OCI}.config.v1+json", "digest": settings, "size": 2},
            "layers": [],
        }
        digest = push_manifest(address, f"{repository}:1", fields)
        is_done = threading.Event()

        def push_on() -> None:
            url = f"http://{address}/v2/{repository}/manifests/1"
            data = json.dumps(fields).encode()
            while not is_done.is_set():
                ask("PUT", url, data, str(fields["mediaType"]))

        pushing = threading.Thread(target=push_on)
        pushing.start()
        try:
            for _ in range(100):
                images = pack_storage(str(root), str(tmp_path / "image.tar"), "none").images()
                assert [image.digest for image in images] == [digest]
        finally:
            is_done.set()
            pushing.join()
