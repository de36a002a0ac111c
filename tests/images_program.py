"""`python -m kollacast.images` as a process, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.processes import Crew, Program


def images(crew: Crew, *words: str | Path, **more: Any) -> Program:
    """Start ``python -m kollacast.images``."""
    argv = [sys.executable, "-m", "kollacast.images", *map(str, words)]
    return crew.start(argv, "images", **more)


async def done(program: Program) -> str:
    """Standard output of a program that has to succeed."""
    assert await program.end() == 0, program.errors
    return program.output.decode()


async def refused(program: Program, status: int = 1) -> str:
    """The one line that a program leaves which has to fail."""
    assert await program.end() == status, program.errors
    [line] = program.lines
    return line


async def listed(crew: Crew, path: Path) -> dict[str, str]:
    """The digest of each image in an image file, by its name."""
    fields = json.loads(await done(images(crew, "list", path, "--json")))
    return {f"{image['repository']}:{image['tag']}": image["digest"] for image in fields["images"]}
