"""The command: ``python -m bench``; see ``--help``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.ballast import Ballast
from bench.contenders import (
    CONTENDERS,
    Contender,
    Kollacast,
    KollacastToCrowd,
    sweep,
    watched,
    watched_by_crowd,
)
from bench.image import Image, ImageError, make_image, require_room, work_folder
from bench.plot import PlotError, draw
from bench.results import has_failed, load, save
from bench.rows import (
    ALL_ROWS,
    COST_NAME,
    MIB,
    ROWS,
    SCALE_NAME,
    SUBJECT,
    SWEEP_NAME,
    WATCHED_NAME,
    Row,
    by_name,
    some_by_name,
)
from bench.runner import Runner, tell
from bench.scaling import PAGE, PICTURE, filled, scale_rows
from bench.scaling_plot import draw_scaling
from bench.table import markdown
from lab import Lab, LabError

_RESULTS = Path(__file__).with_name("results")
_NAME = "benchmark"
#: What `--quick` runs: one row of each kind of network, images of a few blinks.
_QUICK_HOSTS = {
    "raw-1": (1,),
    "frames-4": (4,),
    "loss-5": (4,),
    "slow-port": (4,),
    "hosts": (1, 8),
    "scale-64-loss": (64,),
}
_QUICK_SIZE = 8 * MIB
_SUFFIXES = {"K": 1024, "M": MIB, "G": 1024 * MIB}


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all was measured; 1 when a copy differs or kollacast fails; 2 when it cannot run."""
    options = _parse(argv)
    results = options.results or (_RESULTS / "quick" if options.quick else _RESULTS)
    if options.render:
        return _render(results)
    reason = Lab.available()
    if reason:
        return _complain(f"no network of hosts can be made here: {reason}", 2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failures = []
    began = time.monotonic()
    try:
        for row, record in _measure(options):
            save(results / f"{_NAME}.json", {**load(results / f"{_NAME}.json"), row.name: record})
            failures += [f"{row.name}: {line}" for line in has_failed(record)]
    except (LabError, ImageError) as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        return _complain("interrupted; rows that were finished are kept", 130)
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    tell(f"measured in {minutes} min {seconds} s")
    _render(results)
    for failure in failures:
        _complain(failure, 1)
    return 1 if failures else 0


def _measure(options: argparse.Namespace) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Each row with its record, as soon as it is measured."""
    sizes = {
        row: options.size or (_QUICK_SIZE if options.quick else row.size) for row in _rows(options)
    }
    copies = max((size * row.copies(max(row.hosts)) for row, size in sizes.items()), default=0)
    images: dict[int, Image] = {}
    with work_folder() as folder:
        require_room(folder, copies + sum(set(sizes.values())))
        tell(f"filling {copies / MIB:.0f} MiB of memory, which the copies get later")
        ballast = Ballast(folder / "ballast", copies)
        ballast.fill()
        runner = Runner(folder, ballast, options.repetitions or (1 if options.quick else None))
        for row, size in sizes.items():
            tell(f"{row.name}: {row.network}, {size / MIB:.0f} MiB")
            if size not in images:
                images[size] = make_image(folder, size)
            yield row, runner.run(row, _contenders(options, row), images[size])


def _contenders(options: argparse.Namespace, row: Row) -> list[Contender]:
    if row.is_simulated:
        crowd = KollacastToCrowd(digest="tree")
        return [crowd, watched_by_crowd()] if row.is_watched else [crowd]
    if row.is_watched:
        return [Kollacast(), watched()]
    return [*sweep()] if row.goal is None else options.contenders


def _rows(options: argparse.Namespace) -> list[Row]:
    if options.quick and not options.rows:
        return [
            replace(by_name(name), hosts=hosts, others_hosts=None)
            for name, hosts in _QUICK_HOSTS.items()
        ]
    is_measured = SUBJECT in [contender.name for contender in options.contenders]
    wanted = options.rows or (ALL_ROWS if is_measured else ROWS)
    return [row for row in ALL_ROWS if row in wanted]


def _render(results: Path) -> int:
    records = load(results / f"{_NAME}.json")
    if not records:
        return _complain(f"nothing measured yet in {results}", 2)
    page = markdown(records)
    (results / f"{_NAME}.md").write_text(page)
    print(page)
    if results == _RESULTS:
        picture = os.path.relpath(results / PICTURE, PAGE.parent)
        PAGE.write_text(filled(PAGE.read_text(), records, picture))
    try:
        draw(records, results / f"{_NAME}.png")
        draw_scaling(scale_rows(records), records, results / PICTURE)
    except PlotError as error:
        _complain(str(error), 0)
    return 0


def _complain(line: str, status: int) -> int:
    print(f"bench: {line}", file=sys.stderr)
    return status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    groups = [COST_NAME, WATCHED_NAME, SCALE_NAME, SWEEP_NAME]
    names = ",".join([*(row.name for row in ROWS), *groups])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small images, once each, in under a minute: for correctness, not for figures",
    )
    parser.add_argument("--rows", type=_some_rows, help=f"some of {names} (default: all)")
    parser.add_argument(
        "--contenders",
        type=_some_contenders,
        default=list(CONTENDERS.values()),
        help=f"some of {','.join(CONTENDERS)} (default: all)",
    )
    parser.add_argument(
        "--repetitions",
        type=_count,
        help="of every contender (default: as README.md says, quick: 1)",
    )
    parser.add_argument("--size", type=_size, help="of every image, e.g. 64M (default: the row's)")
    parser.add_argument("--results", type=Path, help=f"folder (default {_RESULTS}, quick: in it)")
    parser.add_argument(
        "--render", action="store_true", help="measure nothing; table and plot from the JSON"
    )
    return parser.parse_args(argv)


def _some_rows(text: str) -> list[Row]:
    try:
        return [row for name in text.split(",") for row in some_by_name(name)]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"no row {error}") from None


def _some_contenders(text: str) -> list[Contender]:
    try:
        return [CONTENDERS[name] for name in text.split(",")]
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"no contender {error}") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number from 1 up: {text}")
    return int(text)


def _size(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or int(number) < 1 or (unit and unit not in _SUFFIXES):
        raise argparse.ArgumentTypeError(f"not a size such as 64M or 1G: {text}")
    return int(number) * _SUFFIXES.get(unit, 1)


if __name__ == "__main__":
    sys.exit(main())
