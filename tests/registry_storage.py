"""Archives of a registry's storage for unit tests, made member by member and wrong at will."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import zstandard

STORAGE = "docker/registry/v2"
PREFIX = f"tmp/registry/{STORAGE}"

_MEDIA = "application/vnd.oci.image"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob_path(digest: str) -> str:
    """Below the folder of the storage."""
    value = digest.partition(":")[2]
    return f"blobs/sha256/{value[:2]}/{value}/data"


def storage_of(images: Mapping[str, list[bytes]]) -> dict[str, bytes]:
    """The files of a registry's storage, by path, that has images of these layers by name."""
    files: dict[str, bytes] = {}

    def blob(kind: str, data: bytes) -> dict[str, object]:
        files[blob_path(digest_of(data))] = data
        return {"mediaType": f"{_MEDIA}.{kind}", "digest": digest_of(data), "size": len(data)}

    for name, layers in images.items():
        repository, _, tag = name.partition(":")
        config = blob("config.v1+json", json.dumps({"of": name}).encode())
        parts = [blob("layer.v1.tar", layer) for layer in layers]
        fields = {"schemaVersion": 2, "config": config, "layers": parts}
        digest = str(blob("manifest.v1+json", json.dumps(fields).encode())["digest"])
        home = f"repositories/{repository}"
        for part in (config, *parts):
            link = str(part["digest"])
            files[f"{home}/_layers/{link.replace(':', '/')}/link"] = link.encode()
        for place in (
            f"revisions/{digest.replace(':', '/')}",
            f"tags/{tag}/current",
            f"tags/{tag}/index/{digest.replace(':', '/')}",
        ):
            files[f"{home}/_manifests/{place}/link"] = digest.encode()
    return files


def with_index(
    files: Mapping[str, bytes], name: str, children: Sequence[str], more: Sequence[str] = ()
) -> dict[str, bytes]:
    """The same storage with an index `name` of manifests that are there, and of others."""
    repository, _, tag = name.partition(":")
    entries = [
        {"mediaType": f"{_MEDIA}.manifest.v1+json", "digest": digest, "size": 1}
        for digest in (*children, *more)
    ]
    fields = {"schemaVersion": 2, "mediaType": f"{_MEDIA}.index.v1+json", "manifests": entries}
    data = json.dumps(fields).encode()
    digest = digest_of(data)
    home = f"repositories/{repository}/_manifests"
    return {
        **files,
        blob_path(digest): data,
        f"{home}/revisions/{digest.replace(':', '/')}/link": digest.encode(),
        f"{home}/tags/{tag}/current/link": digest.encode(),
    }


def write_storage(root: Path, files: Mapping[str, bytes]) -> None:
    """Put such a storage into the root directory of a registry."""
    for path, data in files.items():
        file = root / STORAGE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def manifest_of(files: Mapping[str, bytes], name: str) -> str:
    """The digest of the manifest of an image in such a storage."""
    repository, _, tag = name.partition(":")
    return files[f"repositories/{repository}/_manifests/tags/{tag}/current/link"].decode()


def file_member(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member, data


def members_of(files: Mapping[str, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [file_member(f"{PREFIX}/{path}", data) for path, data in files.items()]


def archive_of(
    members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT
) -> bytes:
    file = io.BytesIO()
    with tarfile.TarFile(fileobj=file, mode="w", format=form) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def compressed(data: bytes, method: str) -> bytes:
    if method == "gzip":
        return gzip.compress(data, 1)
    return zstandard.compress(data) if method == "zstd" else data
