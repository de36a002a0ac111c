"""Every attack, in turns with a transfer that nobody attacks: what it costs the others.

    python -m tests.hostile [--only KIND] [--turns N] [--mib N] [--rate BITS]

Prints a line for each transfer, and a table of the medians in the end. Needs root; `make hostile`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.crew import TransferError
from lab import Lab
from tests.hostile.trial import Attack, Figures, attacked_lab, trial

ATTACKS = (
    Attack("junk"),
    Attack("junk", is_spoofed=True),
    Attack("full-junk", is_spoofed=True, rate=20_000),
    Attack("data", rate=20_000),
    Attack("data", is_spoofed=True, rate=1_000),
    Attack("recipes", rate=5_000),
    Attack("recipes", is_spoofed=True, rate=5_000),
    Attack("parity", is_spoofed=True, rate=5_000),
    Attack("control", rate=20_000),
    Attack("control", is_spoofed=True, rate=5_000),
    Attack("resets"),
    Attack("hellos"),
    Attack("silence"),
)


def main(words: Sequence[str]) -> int:
    """Run, and return an exit status."""
    parser = argparse.ArgumentParser(description="What attacks cost a transfer.")
    parser.add_argument("--only", action="append", help="this kind alone")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--mib", type=int, default=512, help="size of the image")
    parser.add_argument("--rate", type=int, default=10**9, help="of the server's link, bit/s")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="packets cross as large datagrams")
    options = parser.parse_args(words)
    reason = Lab.available()
    if reason:
        print(f"hostile: {reason}", file=sys.stderr)
        return 2
    attacks = [attack for attack in ATTACKS if not options.only or attack.kind in options.only]
    turns: list[Attack | None] = [None, *attacks]
    found: dict[str, list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        image = folder / "image"
        drawn = random.Random(1)
        image.write_bytes(b"".join(drawn.randbytes(1 << 20) for _ in range(options.mib)))
        with _lab(options) as lab:
            for _ in range(options.turns):
                for attack in turns:
                    called = "nobody" if attack is None else attack.name
                    try:
                        figures = trial(lab, folder, image, attack)
                    except (TransferError, AssertionError) as error:
                        print(f"{called:24} {error}", flush=True)
                    else:
                        found[called].append(figures)
                        print(f"{called:24} {figures}", flush=True)
    _table(found)
    return 0 if all(len(found[a.name]) == options.turns for a in attacks) else 1


def _lab(options: argparse.Namespace) -> AbstractContextManager[Lab]:
    own_frames = not options.whole
    return attacked_lab("hostile-", options.clients, options.rate, own_frames=own_frames)


def _table(found: dict[str, list[Figures]]) -> None:
    def middle(name: str, field: str) -> float:
        return statistics.median(getattr(figures, field) for figures in found[name])

    print("\n| attack | s | of nobody's | server CPU s | client CPU s | MiB more: server, client |")
    print("|---|---|---|---|---|---|")
    for name, all_figures in found.items():
        if not all_figures or not found["nobody"]:
            continue
        seconds = middle(name, "seconds")
        more = [
            (middle(name, field) - middle("nobody", field)) / 2**20
            for field in ("server_bytes", "client_bytes")
        ]
        print(
            f"| {name} | {seconds:.2f} | {seconds / middle('nobody', 'seconds'):.3f} |"
            f" {middle(name, 'server_cpu_s'):.2f} | {middle(name, 'client_cpu_s'):.2f} |"
            f" {more[0]:+.0f}, {more[1]:+.0f} |"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
