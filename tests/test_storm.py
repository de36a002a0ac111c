"""Thousands of seeded sessions: every run ends, and tells the truth.

A failure names the command that plays its seed again.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.storm.play import command, play_many

#: Seeds that are played each time, and by how many processes.
#: In the last one a buffer is refuted while the answers to earlier requests are under way.
_SEEDS = (*range(3000), 9100701)
_PROCESSES = 2


def test_whatever_happens_every_run_ends_and_tells_the_truth() -> None:
    wrong = [
        "\n    ".join((command(seed), *faults))
        for seed, faults in play_many(_SEEDS, _PROCESSES)
        if faults
    ]
    if wrong:
        pytest.fail("\n".join((f"{len(wrong)} of {len(_SEEDS)} seeds:", *wrong)))


def test_a_seed_is_one_session() -> None:
    """Byte for byte, whatever else a process has in memory and in which order."""
    prints = set()
    for hash_seed in ("1", "2"):
        made = subprocess.run(
            [sys.executable, "-m", "tests.storm", "--fingerprint", "0-39"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert made.returncode == 0, made.stderr
        prints.add(made.stdout)
    assert len(prints) == 1
