"""What holds for every test: where it leaves its files, and whether it may be skipped.

A test that needs what a machine may lack (root, a Debian package) is skipped there and says what is
missing. With the environment variable ``KOLLACAST_CI`` set, every test has to run, and one that
would be skipped fails.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from unittest import mock

import pytest
from twisted.trial.unittest import SynchronousTestCase

from kollacast.command.monotonic import run_on_monotonic_clock


@pytest.fixture(autouse=True, scope="session")
def _trial_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have ``mktemp`` of trial's test cases name a path outside the working directory."""

    def mktemp(case: SynchronousTestCase) -> str:
        return str(tmp_path_factory.mktemp(type(case).__name__) / "temp")

    with mock.patch.object(SynchronousTestCase, "mktemp", mktemp):
        yield


@pytest.fixture(autouse=True, scope="session")
def _patience_on_a_monotonic_clock() -> None:
    """Have tests on the real reactor wait as long as they say, also where the clock is set."""
    from twisted.internet import reactor

    run_on_monotonic_clock(reactor)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put trial's test cases before the tests on the reactor of pytest-twisted.

    A test case starts the reactor and crashes it. Once pytest-twisted has started it, it runs on.
    """
    items.sort(key=lambda item: getattr(item, "cls", None) is None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the report of a skipped test into that of a failed one."""
    report = yield
    if report.skipped and os.environ.get("KOLLACAST_CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped where every test must run: {reason}"
        # an expected failure is a skip to pytest, and would be counted as one
        vars(report).pop("wasxfail", None)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself as a whole."""
    report = yield
    if report.skipped and os.environ.get("KOLLACAST_CI"):
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} skips itself where every test must run"
    return report
