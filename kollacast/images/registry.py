"""A registry for a moment, and copies into it: docker-registry and skopeo do the work."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kollacast.images.layout import BadImage

#: Seconds in which a registry on this host must have started.
_START_S = 30.0
#: Seconds between two looks whether it has.
_LOOK_S = 0.05


@contextmanager
def temporary_registry(folder: str) -> Iterator[tuple[str, str]]:
    """A registry on a free port of the loopback interface, with all that is its own in `folder`.

    Yields its root directory and its address. Raises OSError when it does not start.
    """
    root, config, log = (os.path.join(folder, name) for name in ("root", "config.yml", "log"))
    fields = {
        "version": "0.1",
        "log": {"level": "info", "formatter": "text"},
        "storage": {"filesystem": {"rootdirectory": root}},
        "http": {"addr": "127.0.0.1:0"},
    }
    with open(config, "w", encoding="utf-8") as file:
        json.dump(fields, file)  # which is YAML, too
    # As Debian calls it, and as its authors do.
    program = _find("docker-registry", "registry")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
    with (
        open(log, "wb") as output,
        subprocess.Popen(
            [program, "serve", config],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        ) as process,
    ):
        try:
            yield root, _address(process, log)
        finally:
            process.kill()


def copy_image(
    source: str, address: str, name: str, words: Sequence[str], folder: str | None
) -> None:
    """Have skopeo copy the image `source` to a registry of this host. Raises OSError.

    A path in `source` begins in `folder`: in skopeo's words it can have no colon.
    """
    target = f"docker://{address}/{name}"
    done = subprocess.run(
        [_find("skopeo"), "copy", "--quiet", "--dest-tls-verify=false", *words, source, target],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise BadImage(f"skopeo: {_last_message(done.stderr)}")


def _address(process: subprocess.Popen[bytes], log: str) -> str:
    """Where the registry listens, as it says itself."""
    deadline = time.monotonic() + _START_S
    while True:
        is_running = process.poll() is None
        with open(log, encoding="utf-8", errors="replace") as file:
            said = file.read()
        if match := re.search(r"listening on (127\.0\.0\.1:\d+)", said):
            return match[1]
        if not is_running or time.monotonic() > deadline:
            raise OSError(errno.EIO, f"docker-registry does not start: {_last_message(said)}")
        time.sleep(_LOOK_S)


def _last_message(text: str) -> str:
    """The last line of a log, without what surrounds the message."""
    line = (text.strip().splitlines() or ["it says nothing"])[-1]
    if match := re.search(r'\bmsg="((?:[^"\\]|\\.)*)"', line):
        return match[1].replace('\\"', '"')
    return line


def _find(*names: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(errno.ENOENT, f"is not installed: apt install {names[0]}", names[0])
