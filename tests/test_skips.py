"""The rule of ``conftest.py``, tried on a small suite of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_SUITE = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="no moon tonight")
def test_marked():
    pass

def test_says_so_itself():
    pytest.skip("no root")
"""

_SKIPPED_MODULE = """
import pytest
pytest.skip("no such package", allow_module_level=True)
"""


class SkipsTests(SynchronousTestCase):
    """A skip is a skip on a user's machine and a failure where the whole suite must run."""

    def test_everywhere(self) -> None:
        status, output = self._run_suite(_SUITE, strict=False)
        self.assertEqual(status, 0, output)
        self.assertIn("1 passed, 2 skipped", output)

    def test_strict(self) -> None:
        status, output = self._run_suite(_SUITE, strict=True)
        self.assertEqual(status, 1, output)
        self.assertIn("1 failed, 1 passed, 1 error", output)
        self.assertIn("no moon tonight", output)
        self.assertIn("no root", output)

    def test_strict_about_modules(self) -> None:
        status, output = self._run_suite(_SKIPPED_MODULE, strict=True)
        self.assertNotIn(status, (0, 5), output)
        self.assertIn("skips itself", output)

    def _run_suite(self, text: str, strict: bool) -> tuple[int, str]:
        with tempfile.TemporaryDirectory() as folder:
            rule = Path(__file__).with_name("conftest.py").read_text()
            Path(folder, "conftest.py").write_text(rule)
            Path(folder, "test_small.py").write_text(text)
            environment = {**os.environ, "KOLLACAST_CI": "1" if strict else ""}
            run = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
                capture_output=True,
                text=True,
                env=environment,
                cwd=folder,
                timeout=300,
            )
        return run.returncode, run.stdout + run.stderr
