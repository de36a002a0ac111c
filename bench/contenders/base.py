"""What a contender is: how one tool brings the image from the server to every client."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.crew import Crew
from bench.rows import Row
from lab import Lab

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Scene:
    """One transfer to be made. `folder` is on the file system that holds image and copies."""

    lab: Lab
    row: Row
    image: Path
    folder: Path
    #: Simulated ones share the lab's only client.
    hosts: int

    @property
    def copies(self) -> list[Path]:
        """Where each client's copy goes, in the order of `lab.clients`; none of simulated hosts."""
        if self.row.is_simulated:
            return []
        return [self.folder / f"copy-{number}" for number in range(len(self.lab.clients))]


class Contender(Protocol):
    """One tool, with its best sensible options for each row."""

    name: str
    is_multicast: bool
    #: kollacast, in whatever variant: what the goals are about, and what must not fail.
    is_subject: bool = False

    def skips(self, row: Row) -> str | None:
        """None when it takes part in a row, else why it does not."""
        return None

    def facts(self, row: Row) -> dict[str, Any]:
        """What the record of a row is to know about it beside the options; see `Kollacast`."""
        return {}

    def missing(self) -> str | None:
        """None when the tool can be run here, else what is missing."""

    def version(self) -> str:
        """The version that is measured."""

    def options(self, row: Row) -> str:
        """What its commands say beside addresses and file names, for the table."""

    def transfer(self, crew: Crew, scene: Scene) -> dict[str, Any]:
        """Bring the image to `scene.copies`.

        Receivers are started first and wait; `crew.begin` just before the sender's start;
        `crew.finish` once the last receiver is done. Returns what the tool itself reports (for
        JSON), if anything. TransferError says why it did not succeed.
        """


def command(name: str) -> str:
    """The path of an installed command, also of those that only root has in the path."""
    return shutil.which(name, path=_PATH) or name


def not_installed(*names: str) -> str | None:
    """None when all these commands are installed, else a sentence that names those that are not."""
    missing = [name for name in names if shutil.which(name, path=_PATH) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def package_version(package: str, fallback: Sequence[str]) -> str:
    """A Debian package's version, or the first line that the command `fallback` says."""
    asked = ["dpkg-query", "--show", "--showformat", "${Version}", package]
    for argv in (asked, list(fallback)):
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except OSError:
            continue
        lines = (done.stdout + done.stderr).strip().splitlines()
        if done.returncode == 0 and lines:
            return lines[0]
    return "unknown"
