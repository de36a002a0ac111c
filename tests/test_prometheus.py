"""What other programs say of what is there for Prometheus, and what is loaded for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from kollacast.operator.outcome import Outcome, Status
from kollacast.status.document import Moment
from kollacast.status.history import History
from kollacast.status.metrics import Metrics
from tests.status_values import host, run

_CHECKOUT = Path(__file__).resolve().parents[1]
_PAGE = _CHECKOUT / "docs" / "reading.md"
_LOADED = """
import sys
from kollacast.command import server
import kollacast.server
print(*sys.modules)
"""


def _all_metrics() -> str:
    """Of a run that has ended, with each host: there are no others."""
    full = Moment(run(host(1, packets_sent=9)), History(), Outcome(Status.OK, ""))
    return Metrics(lambda: full, per_host=True).encoded("")[0].decode()


class LoadTests(SynchronousTestCase):
    """What a server costs that nobody watches."""

    def test_nothing_is_loaded_for_a_page_that_is_not_wanted(self) -> None:
        ran = subprocess.run(
            [sys.executable, "-c", _LOADED],
            env={**os.environ, "PYTHONPATH": str(_CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        loaded = ran.stdout.split()
        self.assertIn("kollacast.server.snapshot", loaded)
        for name in loaded:
            for heavy in ("kollacast.status", "prometheus_client", "twisted.web"):
                self.assertFalse(name.startswith(heavy), name)


class MetricsTests(SynchronousTestCase):
    """/metrics."""

    def test_what_promtool_says(self) -> None:
        """Names and units are by Prometheus' conventions."""
        _promtool("check", "metrics", data=_all_metrics().encode())

    def test_each_is_described(self) -> None:
        """In the table of docs/reading.md, or the line below it."""
        described = set(re.findall(r"`(kollacast_[a-z_]+)", _PAGE.read_text("utf-8")))
        suffixes = "_bucket", "_count", "_sum"
        names = {name for name in _names() if not name.endswith(suffixes)}
        self.assertEqual(names | {"kollacast_loss_ratio"}, described)


def _names() -> set[str]:
    """Of all series that there may be."""
    return {
        sample.name
        for family in text_string_to_metric_families(_all_metrics())
        for sample in family.samples
    }


class RulesTests(SynchronousTestCase):
    """The alert rules and the dashboard."""

    def test_rules(self) -> None:
        _promtool("check", "rules", "kollacast.rules.yml")

    def test_alerts(self) -> None:
        _promtool("test", "rules", "kollacast.rules.test.yml")

    def test_every_metric_of_them_is_there(self) -> None:
        for name in ("kollacast.rules.yml", "dashboard.json"):
            text = (_CHECKOUT / "contrib" / "prometheus" / name).read_text("utf-8")
            used = set(re.findall(r"\bkollacast_[a-z_]+\b", text))
            self.assertGreater(len(used), 4, name)
            self.assertLessEqual(used, _names(), name)

    def test_the_dashboard(self) -> None:
        """Grafana can import it: every panel has a place, queries, and the source that is asked."""
        path = _CHECKOUT / "contrib" / "prometheus" / "dashboard.json"
        board = json.loads(path.read_text("utf-8"))
        self.assertEqual([v["name"] for v in board["templating"]["list"]], ["source", "instance"])
        places: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            self.assertTrue(panel["title"])
            self.assertEqual(panel["datasource"]["uid"], "${source}")
            self.assertTrue(all(target["expr"] for target in panel["targets"]))
            at = panel["gridPos"]
            covered = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            self.assertFalse(places & covered, panel["title"])
            self.assertLessEqual(at["x"] + at["w"], 24)
            places |= covered


def _promtool(*words: str, data: bytes = b"") -> None:
    tool = shutil.which("promtool")
    if tool is None:
        raise SkipTest("not installed: promtool")
    folder = _CHECKOUT / "contrib" / "prometheus"
    ran = subprocess.run([tool, *words], cwd=folder, input=data, capture_output=True, timeout=60)
    said = (ran.stdout + ran.stderr).decode()
    assert ran.returncode == 0, said
