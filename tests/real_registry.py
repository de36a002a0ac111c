"""Images from scratch (umoci), a registry on loopback (docker-registry), copies (skopeo)."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import LOOPBACK, PATIENCE_S, free_port, image_of

_PROGRAMS = ("umoci", "skopeo", "docker-registry")

needs_registry = pytest.mark.skipif(
    not all(map(shutil.which, _PROGRAMS)), reason=f"needs {', '.join(_PROGRAMS)}"
)


def run(*words: str | Path) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def make_layout(folder: Path, tags: Sequence[str], layer_bytes: int = 1_000_000) -> Path:
    """An OCI layout with one image for each tag, a layer of its own on a layer that all share."""
    folder.mkdir()
    layout = folder / "layout"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:base")
    for number, tag in enumerate(("base", *tags)):
        content = folder / tag
        content.write_bytes(image_of(layer_bytes + number))
        target = () if tag == "base" else ("--tag", tag)
        run(
            "umoci",
            "insert",
            "--rootless",
            "--image",
            f"{layout}:base",
            *target,
            content,
            f"/{tag}",
        )
    run("umoci", "rm", "--image", f"{layout}:base")
    run("umoci", "gc", "--layout", layout)
    return layout


@contextmanager
def serving(root: Path, config: Path, port: int | None = None) -> Iterator[str]:
    """A registry with this root directory; yields its address."""
    address = f"{LOOPBACK}:{port or free_port()}"
    fields = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(root)}, "delete": {"enabled": True}},
        "http": {"addr": address},
    }
    config.write_text(json.dumps(fields))  # which is YAML, too
    with subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not _answers(address):
                assert process.poll() is None, "the registry has ended"
                assert time.monotonic() < deadline, "the registry does not answer"
                time.sleep(0.02)
            yield address
        finally:
            process.kill()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/v2/", timeout=PATIENCE_S):
            return True
    except OSError:
        return False


def push(layout: Path, tag: str, address: str, name: str) -> None:
    """Copy an image of a layout to a registry, as it is."""
    target = f"docker://{address}/{name}"
    words = ("--quiet", "--preserve-digests", "--dest-tls-verify=false")
    run("skopeo", "copy", *words, f"oci:{layout}:{tag}", target)


def pull(address: str, name: str, folder: Path) -> str:
    """Copy an image out of a registry, every layer of it; return the digest of its manifest."""
    source = f"docker://{address}/{name}"
    run("skopeo", "copy", "--quiet", "--src-tls-verify=false", source, f"dir:{folder}")
    return run("skopeo", "manifest-digest", folder / "manifest.json").strip()


def ask(method: str, url: str, data: bytes | None = None, kind: str = "") -> tuple[int, str]:
    """Status of an answer, and where it leads to."""
    headers = {"Content-Type": kind or "application/octet-stream"}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.headers.get("Location", "")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def push_blob(address: str, repository: str, data: bytes, algorithm: str) -> str:
    """Push a blob by its digest of this algorithm, which is returned."""
    digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    status, place = ask("POST", f"http://{address}/v2/{repository}/blobs/uploads/", b"")
    assert status == 202
    status, _ = ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data)
    assert status == 201
    return digest


def push_manifest(address: str, name: str, fields: dict[str, object]) -> str:
    """Push a manifest, whose `mediaType` has to be there; returns its digest."""
    repository, _, tag = name.partition(":")
    data = json.dumps(fields).encode()
    url = f"http://{address}/v2/{repository}/manifests/{tag}"
    status, _ = ask("PUT", url, data, str(fields["mediaType"]))
    assert status == 201, status
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layout_digest(layout: Path, tag: str) -> str:
    """The digest of an image's manifest in a layout."""
    index = json.loads((layout / "index.json").read_text())
    [found] = [
        manifest["digest"]
        for manifest in index["manifests"]
        if manifest["annotations"]["org.opencontainers.image.ref.name"] == tag
    ]
    return str(found)
