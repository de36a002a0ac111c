"""Pictures of the status page for the documentation: `make screenshots`, as root.

    screenshots.py [FOLDER]

A real server sends to simulated hosts, some of which lose, stall and go, in a network of
namespaces; a real browser on the server's host looks at it in the middle and in the end. The
pictures go to FOLDER, docs/pictures unless it is named.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from selenium.common.exceptions import WebDriverException

from lab import Lab
from tests.browser import Browser, missing

_CHECKOUT = Path(__file__).resolve().parents[1]
_PORT = 8080
_PATIENCE_S = 120.0
_COLOURS = 160
#: Multicast whose packets' seqs are the image's: the first bit of the UDP payload is 0.
_IMAGE_PACKETS = "@th,64,1 0"


@dataclass(frozen=True)
class Shot:
    """One picture: the window, and when it is taken, by the share of the image that was sent."""

    name: str
    size: tuple[int, int]
    at: float  #: 1 for the end
    dark: bool = False
    phone: bool = False
    opens: str | None = None  #: a host whose details are shown


@dataclass(frozen=True)
class Scene:
    """A distribution, and what is taken of it."""

    hosts: int
    loss: str
    disturbance: tuple[str, ...]
    shots: tuple[Shot, ...]
    size: int = 400_000_000
    rate: str = "200M"
    patience: str = "2"


_SCENES = (
    Scene(
        1,
        "0.002",
        (),
        (Shot("status-1", (1180, 640), 0.6),),
        size=200_000_000,
    ),
    Scene(
        20,
        "0.003",
        (
            *("--lossy", "2", "--lossy-share", "0.12", "--stalled", "2", "--stall-seconds", "60"),
            *("--killed", "1"),
        ),
        (
            Shot("status-20", (1180, 1010), 0.72),
            Shot("status-details", (1180, 1010), 0.76, dark=True, opens="host-0"),
            Shot("status-phone", (390, 1180), 0.74, phone=True),
            Shot("status-end", (1180, 1010), 1.0),
        ),
    ),
    Scene(
        200,
        "0.004",
        (
            *("--lossy", "5", "--lossy-share", "0.1", "--stalled", "4", "--stall-seconds", "60"),
            *("--killed", "3"),
        ),
        (
            Shot("status-200", (1180, 1010), 0.72),
            Shot("status-200-dark", (1180, 1010), 0.75, dark=True),
        ),
    ),
    Scene(
        1000,
        "0.001",
        (
            *("--lossy", "9", "--lossy-share", "0.1", "--stalled", "6", "--stall-seconds", "60"),
            *("--killed", "5"),
        ),
        (
            Shot("status-1000", (1180, 1010), 0.72),
            Shot("status-1000-phone", (390, 1180), 0.74, phone=True),
        ),
        size=400_000_000,
        rate="100M",
        patience="10",
    ),
)


def main(words: Sequence[str]) -> int:
    """Take all pictures, or those of the scenes with as many hosts as the other words say."""
    reason = Lab.available() or missing()
    if reason:
        print(f"screenshots: {reason}", file=sys.stderr)
        return 2
    folder = Path(words[0]) if words else _CHECKOUT / "docs" / "pictures"
    wanted = [int(word) for word in words[1:]] or [scene.hosts for scene in _SCENES]
    folder.mkdir(parents=True, exist_ok=True)
    for scene in _SCENES:
        if scene.hosts in wanted:
            with tempfile.TemporaryDirectory() as work:
                _play(scene, folder, Path(work))
    return 0


def _play(scene: Scene, folder: Path, work: Path) -> None:
    image = work / "kolla_image.tgz"
    with image.open("wb") as file:
        file.truncate(scene.size)
    url = f"http://127.0.0.1:{_PORT}/"
    with ExitStack() as stack, Lab(1, prefix="shot-") as lab:
        client = lab.clients[0]
        lab.block_multicast(client, of=_IMAGE_PACKETS)
        server = _start(
            stack,
            lab.server.command(
                [
                    *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()"),
                    *("-n", "kollacast-server", lab.server.address, str(scene.hosts)),
                    *("--input", str(image), "--rate", scene.rate, "--progress", "none"),
                    *(
                        "--status-port",
                        str(_PORT),
                        "--status-linger",
                        "10m",
                        "--patience",
                        scene.patience,
                    ),
                    *("--client-timeout", "100"),
                ]
            ),
        )
        _start(
            stack,
            client.command(
                [
                    *(sys.executable, "-m", "bench.crowd", "--loss", scene.loss),
                    *(*scene.disturbance, client.address, lab.server.address, str(scene.hosts)),
                ]
            ),
        )
        for shot in scene.shots:
            # One at a time: a browser that draws takes its share of the machine.
            place = work / shot.name
            place.mkdir()
            browser = Browser(
                place, lab.server.namespace, size=shot.size, dark=shot.dark, phone=shot.phone
            )
            stack.callback(browser.close)
            _open(browser, url)
            _await(browser, shot.at)
            if shot.opens:
                browser.ask(_opening(shot.opens)).result()
            browser.ask(lambda d: time.sleep(0.3)).result()
            path = folder / f"{shot.name}.png"
            browser.ask(_taking(path)).result()
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB", flush=True)
            browser.close()
        server.terminate()


def _start(stack: ExitStack, argv: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(_CHECKOUT)}
    process = subprocess.Popen(argv, env=environment)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _open(browser: Browser, url: str) -> None:
    """Once the server is there."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            browser.ask(lambda driver: driver.get(url)).result()
            return
        except WebDriverException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _await(browser: Browser, share: float) -> None:
    """Until so much was sent, or all is over."""
    script = "return run.status !== undefined && [run.status, run.bytes / run.total]"
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        state = browser.ask(lambda d: d.execute_script(script)).result()
        if state and (state[0] is not None or (share < 1 and state[1] >= share)):
            return
        time.sleep(0.05)
    raise SystemExit(f"screenshots: {share:.0%} not reached within {_PATIENCE_S:.0f} s")


def _taking(path: Path) -> Callable[[Any], None]:
    def take(driver: Any) -> None:
        picture = Image.open(io.BytesIO(driver.get_screenshot_as_png()))
        # A page has few colours, and half of the bytes is enough for them.
        picture.convert("RGB").quantize(_COLOURS).save(path, optimize=True)

    return take


def _opening(host: str) -> Callable[[Any], Any]:
    script = "cells[columns.name.indexOf(arguments[0])].click()"

    def open_details(driver: Any) -> None:
        driver.execute_script(script, host)

    return open_details


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
