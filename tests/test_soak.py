"""The soak outside the suite works: two of its transfers, drawn and repeated by their numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import TestCase

from lab import Lab

_CHECKOUT = Path(__file__).resolve().parents[1]


class SoakTests(TestCase):
    timeout = 400

    def setUp(self) -> None:
        reason = Lab.available()
        if reason:
            raise SkipTest(reason)

    def _figures(self, number: int) -> dict[str, Any]:
        """What one transfer of the seed 1 adds to the figures."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "figures.json")
            words = ["--seed", "1", "--only", str(number), "--report", str(report)]
            run = subprocess.run(
                [sys.executable, "scripts/soak.py", *words, "--prefix", f"soak{os.getpid()}-"],
                cwd=_CHECKOUT,
                env={**os.environ, "PYTHONPATH": str(_CHECKOUT)},
                capture_output=True,
                text=True,
                timeout=self.timeout,
            )
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
            figures: dict[str, Any] = json.loads(report.read_text())
            return figures

    def test_a_transfer_without_losses(self) -> None:
        figures = self._figures(2)
        self.assertEqual(figures["faults"], {"client killed": 1})
        self.assertEqual(figures["copies_verified"], 2)
        self.assertEqual(
            (figures["mismatches"], figures["unexpected"], figures["left"]), (0, [], [])
        )
        self.assertGreater(figures["memory_mb"]["server_peak"], 10)
        self.assertGreater(figures["memory_mb"]["client_peak"], 10)

    def test_one_with_losses(self) -> None:
        figures = self._figures(1)
        self.assertEqual(figures["faults"], {"multicast blocked": 1, "loss": 1, "duplicates": 1})
        self.assertEqual(figures["copies_verified"], 2)
