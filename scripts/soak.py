"""Transfers back to back under random faults, between real processes on hosts of their own.

    soak.py [--minutes M] [--seed S] [--only N] [--report FILE] [--prefix TEXT]

Each transfer has a network of namespaces (`lab`), an image, options, and one fault, all drawn from
the seed and the transfer's number: `--seed S --only N` repeats that one. Every copy is compared by
SHA-256, and every exit status with those that the fault permits. What must not be left is looked
for: processes, groups joined, hidden files beside a copy that is complete, the spool.

Prints a line a transfer and the figures in the end, which `--report` writes as JSON, too. The exit
status is 1 if anything was not as promised; what the processes of that transfer said is kept, in
the folder that its line names. Needs what `lab` needs, and runs beside other labs, whose prefixes
are others.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak_faults import FAULTS
from soak_transfer import MB, POOL_BYTES, Plan, Transfer

from lab import Lab

#: Transfers at either end of the run whose memory is compared.
_ENDS = 20


def main(words: Sequence[str]) -> int:
    """Run until the time is over, or one transfer; return the exit status."""
    parser = argparse.ArgumentParser(description="Transfers back to back under random faults.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", type=int, metavar="N", help="this transfer alone")
    parser.add_argument("--report", type=Path, metavar="FILE")
    parser.add_argument("--prefix", default="soak-", help="of the namespaces' names")
    options = parser.parse_args(words)
    reason = Lab.available()
    if reason:
        print(f"soak: {reason}", file=sys.stderr)
        return 2
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    pool = random.Random(seed).randbytes(POOL_BYTES)
    figures = Figures(seed)
    deadline = figures.began_at + 60 * options.minutes
    number = 1 if options.only is None else options.only
    try:
        while True:
            run_one(Plan.draw(seed, number, FAULTS), options.prefix, pool, figures)
            number += 1
            if options.only is not None or time.monotonic() > deadline:
                break
    except KeyboardInterrupt:
        print("interrupted: these are the figures so far", flush=True)
    summary = figures.summary()
    print(json.dumps(summary, indent=2))
    if options.report is not None:
        options.report.write_text(json.dumps(summary, indent=2) + "\n")
    return 1 if summary["mismatches"] or summary["unexpected"] or summary["left"] else 0


@dataclass
class Figures:
    """What is counted over all transfers."""

    seed: int
    began_at: float = field(default_factory=time.monotonic)
    available_before: int = field(default_factory=lambda: memory_bytes("/proc/meminfo"))
    own_before: int = field(default_factory=lambda: memory_bytes("/proc/self/status"))
    transfers: int = 0
    missed: int = 0
    copies: int = 0
    bytes_verified: int = 0
    mismatches: int = 0
    unexpected: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    peaks: dict[str, list[int]] = field(default_factory=lambda: {"server": [], "client": []})

    def summary(self) -> dict[str, Any]:
        """All figures, memory in MB."""
        memory: dict[str, float] = {}
        for who, peaks in self.peaks.items():
            memory[f"{who}_peak"] = max(peaks, default=0)
            memory[f"{who}_peak_median_first_{_ENDS}"] = statistics.median(peaks[:_ENDS] or [0])
            memory[f"{who}_peak_median_last_{_ENDS}"] = statistics.median(peaks[-_ENDS:] or [0])
        memory["soak_before"] = self.own_before
        memory["soak_after"] = memory_bytes("/proc/self/status")
        memory["machine_available_before"] = self.available_before
        memory["machine_available_after"] = memory_bytes("/proc/meminfo")
        return {
            "seed": self.seed,
            "minutes": round((time.monotonic() - self.began_at) / 60, 1),
            "transfers": self.transfers,
            "copies_verified": self.copies,
            "bytes_verified": self.bytes_verified,
            "mismatches": self.mismatches,
            "unexpected": self.unexpected,
            "left": self.left,
            "faults": dict(sorted(self.faults.items())),
            "faults_that_came_too_late": self.missed,
            "memory_mb": {name: round(value / MB, 1) for name, value in memory.items()},
        }


def run_one(plan: Plan, prefix: str, pool: bytes, figures: Figures) -> None:
    """Carry out one plan, and add it to the figures."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    began_at = time.monotonic()
    hosts = plan.clients + (plan.fault == "stranger")
    slow = {(plan.victim + 1) % plan.clients: plan.rate_bps // 2} if plan.slow else None
    with Lab(
        hosts,
        prefix=prefix,
        rate_bps=plan.rate_bps,
        slow_ports=slow,
        loss=plan.loss,
        duplicates=plan.duplicates,
    ) as lab:
        transfer = Transfer(plan, lab, folder, pool[plan.offset : plan.offset + plan.size])
        try:
            transfer.run(FAULTS[plan.fault](transfer))
            wrong, right, mismatches = transfer.verify()
            left = transfer.left()
        finally:
            transfer.dismiss()
    left += namespaces(prefix)
    figures.transfers += 1
    figures.missed += not transfer.happened
    figures.copies += right
    figures.bytes_verified += right * plan.size
    figures.mismatches += mismatches
    figures.faults.update(plan.traffic_faults)
    if transfer.happened:
        figures.faults[plan.fault] += 1
    for who, peaks in figures.peaks.items():
        ours = (p for p in transfer.processes if (p.name == "server") == (who == "server"))
        peaks.append(max(process.peak_bytes for process in ours))
    where = f"transfer {plan.number}"
    figures.unexpected += [f"{where}: {text}" for text in wrong]
    figures.left += [f"{where}: {text}" for text in left]
    line = (
        f"{plan.number}: {plan.fault}{'' if transfer.happened else ' (too late)'},"
        f" {plan.size / MB:.1f} MB to {plan.clients} in {time.monotonic() - began_at:.1f} s"
    )
    extras = [*plan.traffic_faults, plan.source, *(["unicast"] if plan.unicast else [])]
    print(f"{line} ({', '.join(extras)}): {right} right", flush=True)
    if wrong or left:
        print(
            f"  NOT AS PROMISED: {'; '.join([*wrong, *left])}; see {folder},"
            f" repeat with --seed {figures.seed} --only {plan.number}",
            flush=True,
        )
    else:
        shutil.rmtree(folder)


def namespaces(prefix: str) -> list[str]:
    """Namespaces that exist now, of labs with this prefix."""
    folder = Path("/run/netns")
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(f"namespace {name}" for name in names if name.startswith(prefix))


def memory_bytes(path: str) -> int:
    """What the machine has available (/proc/meminfo), or what a process occupies (its status)."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(("MemAvailable:", "VmRSS:")):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{path} has no such line")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
