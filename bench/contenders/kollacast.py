"""kollacast: this project, from the Python environment that runs the benchmark."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from bench.contenders.base import Scene
from bench.crew import Crew, Side, TransferError
from bench.rows import Row

_CHECKOUT = Path(__file__).resolve().parents[2]
_QUIET = ("--progress", "none")


class Kollacast:
    name = "kollacast"
    is_multicast = True

    def missing(self) -> str | None:
        return None if _twistd() else "not installed: twistd"

    def version(self) -> str:
        try:
            return importlib.metadata.version("kollacast")
        except importlib.metadata.PackageNotFoundError:
            return "checkout"

    def options(self, row: Row) -> str:
        return "its defaults"

    def transfer(self, crew: Crew, scene: Scene) -> dict[str, Any]:
        lab, env = scene.lab, {"PYTHONPATH": str(_CHECKOUT)}
        # Many clients share one working directory here: each without twistd's file of its pid.
        twistd = [str(_twistd()), "-n", "--pidfile="]
        server_report = scene.folder / "server.json"
        receivers = [
            crew.start(
                host,
                Side.RECEIVER,
                [
                    *(*twistd, "kollacast-client", *_QUIET),
                    *("--output", str(copy), "--report", f"{copy}.json"),
                    *(host.address, lab.server.address),
                ],
                env,
            )
            for host, copy in zip(lab.clients, scene.copies, strict=True)
        ]
        crew.wait_until_idle(receivers)
        crew.begin(receivers[0])
        crew.start(
            lab.server,
            Side.SENDER,
            [
                *(*twistd, "kollacast-server", *_QUIET),
                *("--input", str(scene.image), "--report", str(server_report)),
                *(lab.server.address, str(len(receivers))),
            ],
            env,
        )
        crew.finish(crew.wait(receivers))
        crew.wait(crew.running())
        try:
            report: dict[str, Any] = json.loads(server_report.read_text())
        except (OSError, ValueError) as error:
            raise TransferError(f"the server's report cannot be read: {error}") from None
        return report


def _twistd() -> Path | None:
    """The twistd of this very environment, else the one in the path."""
    beside = Path(sys.executable).with_name("twistd")
    if beside.exists():
        return beside
    found = shutil.which("twistd")
    return Path(found) if found else None
