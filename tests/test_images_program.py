"""`python -m kollacast.images` under signals that come together, and without standard streams."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted

from kollacast.command import values
from kollacast.files.digest import Digester
from tests.images_program import done, images
from tests.processes import Crew, make_crew, on_the_reactor
from tests.registry_storage import archive_of, members_of, storage_of, write_storage

crew = pytest_twisted.async_yield_fixture(make_crew)

_FILES = storage_of({"kolla/one:1": [os.urandom(4_000_000)]})


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@on_the_reactor
async def test_two_signals_at_once_leave_nothing(crew: Crew, second: signal.Signals) -> None:
    """What is half done is removed after the first one, and the next ones do not stop that."""
    members = members_of(storage_of({f"kolla/one:{n}": [os.urandom(9)] * 9 for n in range(300)}))
    archive = archive_of(members)
    root = crew.folder / "host"
    program = images(crew, "unpack", "--root", root, "-", stdin="pipe")
    program.write(archive[: len(archive) // 2])
    await crew.until(lambda: len(list(root.glob("versions/.*.part/**/data"))) > 100, "blobs")
    for number in (signal.SIGTERM, second, second):
        program.send_signal(number)
    assert await program.end() in (-signal.SIGTERM, -second), program.errors
    assert program.lines == ["kollacast-images: interrupted"]
    assert not root.exists()


def _run(folder: Path, words: str, closed: str) -> subprocess.CompletedProcess[bytes]:
    """Run it as a shell does that was told to close standard streams."""
    command = f'exec "$@" {closed}'
    argv = ["sh", "-c", command, "sh", sys.executable, "-m", "kollacast.images", *words.split()]
    return subprocess.run(argv, cwd=folder, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    """No file that is opened takes their places, and the status is that of the work."""
    write_storage(tmp_path / "root", _FILES)
    words = "--compression none storage root"
    for output, streams in (("open.tar", ""), ("closed.tar", closed)):
        ended = _run(tmp_path, f"pack --output {output} {words}", streams)
        assert (ended.returncode, ended.stdout) == (0, b""), ended.stderr
    assert (tmp_path / "open.tar").read_bytes() == (tmp_path / "closed.tar").read_bytes()
    for words in ("list open.tar", "unpack --root host open.tar", "status --root host"):
        ended = _run(tmp_path, words, closed)
        assert (ended.returncode, ended.stderr) == (0, b""), words
    if "<" in closed:
        ended = _run(tmp_path, "list -", "<&-")
        reason = b"standard input: it is no tar archive of a registry's storage: empty file"
        assert (ended.returncode, ended.stderr) == (1, b"kollacast-images: " + reason + b"\n")


@on_the_reactor
async def test_interrupted_while_a_registry_does_not_answer(crew: Crew) -> None:
    """It ends at once, and not when the registry's time is over."""
    write_storage(crew.folder / "root", _FILES)
    await done(images(crew, "pack", "--output", "image.tar", "storage", "root"))
    await done(images(crew, "unpack", "--root", "host", "image.tar"))
    crew.file("registry.py", _HANGING.encode())
    registry = crew.start([sys.executable, "registry.py", str(crew.port)], "registry")
    await registry.gave(1)
    words = ("--root", "host", "--registry", f"127.0.0.1:{crew.port}", "--timeout", "1h")
    program = images(crew, "check", *words)
    await registry.gave(2)
    program.send_signal(signal.SIGTERM)
    assert await program.end() == -signal.SIGTERM
    assert program.lines == ["kollacast-images: interrupted"]


#: Says that it is a registry, and then no more.
_HANGING = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/v2/":
            print(end="2", flush=True)
            time.sleep(3600)
        self.send_response(200)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.end_headers()
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print(end="1", flush=True)
server.serve_forever()
"""


def test_digests(tmp_path: Path) -> None:
    """What is printed is what sha256sum says, and what --expect takes."""
    data = os.urandom(200_000)
    (tmp_path / "image").write_bytes(data)
    digester = Digester("sha256", "tree")
    digester.update([memoryview(data)])
    printed = [f"{name}:{value.hex()}" for name, value in digester.values().items()]
    assert printed[0] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    for words, streams in (("digest image", ""), ("digest -", "< image")):
        ended = _run(tmp_path, words, streams)
        assert (ended.returncode, ended.stdout.decode().split()) == (0, printed), ended.stderr
    for word in printed:
        assert str(values.expected_digest("--expect", word)) == word
