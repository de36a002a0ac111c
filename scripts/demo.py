"""The main job on one machine: a server and three clients, each a process, over loopback multicast.

    demo.py [IMAGE]

sends the file IMAGE, or a container image archive made here, and proves by SHA-256 that every
client has it. Progress is shown as bars on a terminal, as lines anywhere else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

_ADDRESS = "127.0.0.1"
_HOSTS = ("host-1", "host-2", "host-3")
_FILLING = 32 << 20  # random bytes in the image, which nothing can compress
_LABEL_WIDTH = len(max((*_HOSTS, "server"), key=len))


def main(words: Sequence[str]) -> int:
    """Run the demonstration; return its exit status."""
    if len(words) > 1 or any(word.startswith("-") for word in words):
        print(__doc__, file=sys.stderr)
        return 2
    if words and not os.path.isfile(words[0]):
        print(f"demo: {words[0]}: no such file", file=sys.stderr)
        return 2
    folder = Path(".demo")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        image = Path(words[0]) if words else make_image(folder / "demo_image.tar")
        print(f"image: {image}, {image.stat().st_size:,} bytes", flush=True)
        statuses = send(image, folder)
        copies = [folder / host / image.name for host in _HOSTS]
        return 0 if prove(image, copies) and not any(statuses.values()) else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def send(image: Path, folder: Path) -> dict[str, int]:
    """Run a server and a client for each host; return their exit statuses."""
    port = str(_free_port())
    board = Board(("server", *_HOSTS), sys.stderr)
    commands: dict[str, list[str | Path]] = {
        "server": ["kollacast-server", _ADDRESS, str(len(_HOSTS)), port, "--input", image]
    }
    for host in _HOSTS:
        output = folder / host / image.name
        output.parent.mkdir()
        client = ["kollacast-client", _ADDRESS, _ADDRESS, port, "--name", host]
        commands[host] = [*client, "--output", output]
    processes: dict[str, subprocess.Popen[bytes]] = {}
    readers: list[threading.Thread] = []
    with ExitStack() as stack:
        for name, command in commands.items():
            process = stack.enter_context(_running(command, board))
            processes[name] = process
            reader = threading.Thread(target=board.follow, args=(name, process.stderr))
            reader.start()
            readers.append(reader)
        statuses = _ends(processes)
    for reader in readers:
        reader.join()
    for name, status in statuses.items():
        if status:
            print(f"demo: {name} ended with exit status {status}", file=sys.stderr)
    return statuses


def prove(image: Path, copies: Sequence[Path]) -> bool:
    """Print the SHA-256 of every file as sha256sum does; return whether all are the same."""
    digests = []
    for path in (image, *copies):
        digests.append(sha256(path) if path.exists() else "missing")
        print(f"{digests[-1]:64}  {path}")
    is_same = len(set(digests)) == 1
    print("All have the image." if is_same else "NOT all have the image.")
    return is_same


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _running(command: Sequence[str | Path], board: Board) -> Iterator[subprocess.Popen[bytes]]:
    """A process of twistd, which is gone when the context ends."""
    twistd = Path(sys.executable).with_name("twistd")
    process = subprocess.Popen(
        [twistd, "-n", *command, "--progress", "bar" if board.is_live else "plain"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": str(board.columns)},
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ends(processes: dict[str, subprocess.Popen[bytes]]) -> dict[str, int]:
    """Wait for all processes, or for the first that fails; return what has ended, and how."""
    while True:
        statuses = {name: process.poll() for name, process in processes.items()}
        ended = {name: status for name, status in statuses.items() if status is not None}
        if len(ended) == len(processes) or any(ended.values()):
            return ended
        time.sleep(0.05)


def _free_port() -> int:
    """A port that nobody uses for TCP now."""
    with socket.socket() as probe:
        probe.bind((_ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port


class Board:
    """What several processes say on standard error, each under its name.

    On a terminal the last lines of the screen show the bar of each process, redrawn in place.
    """

    def __init__(self, names: Sequence[str], stream: IO[str]) -> None:
        self.is_live = stream.isatty()
        #: how wide a bar may be beside the name
        self.columns = shutil.get_terminal_size().columns - _LABEL_WIDTH - 3
        self._stream = stream
        self._bars = dict.fromkeys(names, "")
        self._drawn = 0
        self._lock = threading.Lock()

    def follow(self, name: str, source: IO[bytes]) -> None:
        """Show what comes from `source`, up to its end."""
        rest = ""
        while block := os.read(source.fileno(), 65536):
            *pieces, rest = re.split(r"(?<=[\r\n])", rest + block.decode(errors="replace"))
            with self._lock:
                for piece in pieces:
                    self._take(name, piece)
                # a bar is drawn behind a carriage return, and nothing follows it until the next
                if self.is_live and rest.strip():
                    self._bars[name] = rest
                self._draw()

    def _take(self, name: str, piece: str) -> None:
        text = piece.strip()
        if not piece.endswith("\n"):
            self._bars[name] = text or self._bars[name]
        elif text.startswith("kollacast-"):
            self._erase()
            self._write(name, text.partition(": ")[2])
        elif text:
            self._bars[name] = text

    def _draw(self) -> None:
        if self.is_live:
            self._erase()
            for name, bar in self._bars.items():
                self._write(name, bar[: self.columns])
            self._drawn = len(self._bars)
        self._stream.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _write(self, name: str, text: str) -> None:
        self._stream.write(f"{name:{_LABEL_WIDTH}} | {text}\n")


def make_image(path: Path) -> Path:
    """Make a container image archive as `docker save` and `podman save` do; return its path.

    The layout is that of the OCI image specification, with docker's manifest.json beside it. Its
    one layer holds the standard library of the Python that runs this, and random bytes.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, tarfile.open(path, "w") as archive:
        layer = Path(folder, "layer.tar")
        with tarfile.open(layer, "w") as files:
            files.add(sysconfig.get_path("stdlib"), "usr/lib/python3", filter=_is_worth_it)
            _add(files, "var/lib/demo/random", os.urandom(_FILLING))
        layer_digest = sha256(layer)
        archive.add(layer, f"blobs/sha256/{layer_digest}")
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(
            platform.machine(), platform.machine()
        )
        config = _add_blob(
            archive,
            {
                "architecture": machine,
                "os": "linux",
                "config": {"Cmd": ["/usr/bin/python3"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
            },
        )
        kind = "application/vnd.oci.image"
        manifest = _add_blob(
            archive,
            {
                "schemaVersion": 2,
                "mediaType": f"{kind}.manifest.v1+json",
                "config": {"mediaType": f"{kind}.config.v1+json", **config},
                "layers": [
                    {
                        "mediaType": f"{kind}.layer.v1.tar",
                        "digest": f"sha256:{layer_digest}",
                        "size": layer.stat().st_size,
                    }
                ],
            },
        )
        entry = {"mediaType": f"{kind}.manifest.v1+json", **manifest}
        _add_json(archive, "index.json", {"schemaVersion": 2, "manifests": [entry]})
        _add_json(archive, "oci-layout", {"imageLayoutVersion": "1.0.0"})
        _add_json(
            archive,
            "manifest.json",
            [
                {
                    "Config": _blob_path(config["digest"]),
                    "RepoTags": ["kollacast/demo:latest"],
                    "Layers": [f"blobs/sha256/{layer_digest}"],
                }
            ],
        )
    return path


def _is_worth_it(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = set(Path(member.name).parts)
    if parts & {"__pycache__", "site-packages", "dist-packages", "test"}:
        return None
    return None if any(part.startswith("config-") for part in parts) else member


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(data))


def _add_json(archive: tarfile.TarFile, name: str, value: Any) -> None:
    _add(archive, name, json.dumps(value).encode())


def _add_blob(archive: tarfile.TarFile, value: Any) -> dict[str, Any]:
    """Add a JSON value under its digest; return what a descriptor says about it."""
    data = json.dumps(value).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    _add(archive, _blob_path(digest), data)
    return {"digest": digest, "size": len(data)}


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
