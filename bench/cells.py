"""What the tables are made of: cells of Markdown, and the grid around them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results import Record, Verdict, transfers
from bench.rows import GIB, MIB


def grid(lines: Sequence[Sequence[str]]) -> str:
    """A table whose first line is its head."""
    head, *body = ("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


def size_cell(size: int) -> str:
    """An image's size."""
    return f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:g} MiB"


def verdict_cells(verdict: Verdict) -> list[str]:
    """What is to be reached, what was measured, and whether that is it."""
    reached = {True: "yes", False: "**no**", None: "not known"}[verdict.is_reached]
    return [verdict.goal, verdict.measured, reached]


def how_often(record: Record, name: str, hosts: int) -> str:
    """What is to be said of a cell whose every repetition did not make a transfer."""
    made = transfers(record, name, hosts)
    errors = [t for t in made if "error" in t]
    if errors:
        return f", {len(errors)} of {len(made)} failed"
    if made and len(made) < record["repetitions"]:
        return f", {len(made)} transfer{'s' if len(made) > 1 else ''}"
    return ""


def absent_cell(record: Record, name: str, hosts: int) -> str:
    """Why there is no figure."""
    about = record["contenders"].get(name, {})
    if "missing" in about or "skipped" in about:
        return str(about.get("missing") or about["skipped"])
    errors = [t["error"] for t in transfers(record, name, hosts) if "error" in t]
    return f"failed: {errors[0]}" if errors else "not run"
