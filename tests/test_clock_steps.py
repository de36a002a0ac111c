"""The time of day is set while an image is on its way: nobody ends, waits or reports by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import task
from twisted.internet.epollreactor import EPollReactor
from twisted.trial.unittest import SynchronousTestCase

from kollacast.command.monotonic import run_on_monotonic_clock
from kollacast.operator.outcome import Status
from tests.processes import PATIENCE_S, Crew, Program, ends, image_of, make_crew, on_the_reactor
from tests.stepped_clock import SteppedClock

crew = pytest_twisted.async_yield_fixture(make_crew)

_STEPS_S = [3600, -70, -3600]
_SIZE = 4_000_000
_BUFFER = 100 * 1460
#: More than a pipe takes, and by less than the window's buffers: it is sent, and cannot be written.
_TAIL = (1 << 20) + _BUFFER // 2


@pytest.mark.parametrize("pace", [(), ("--rate", "20M")], ids=["auto", "rate"])
@pytest.mark.parametrize("step_s", _STEPS_S)
@pytest.mark.parametrize("side", ["server", "client"])
@on_the_reactor
async def test_in_every_phase(crew: Crew, side: str, step_s: int, pace: tuple[str, ...]) -> None:
    image = image_of(_SIZE)
    clock = SteppedClock(crew.folder / "clock")
    server_env, client_env = (clock.env, None) if side == "server" else (None, clock.env)

    def serve() -> Program:
        words = ("--buffer-packets", "100", "--accept-timeout", "10m", "--report", "server.json")
        return crew.server(*words, *pace, clients=2, stdin="pipe", env=server_env)

    def join() -> Program:
        return crew.client("--name", "first", "--report", "first.json", env=client_env)

    # One end waits for the other, and is set.
    if side == "server":
        server = serve()
        await server.said("waiting for clients")
        clock.step(step_s)
        first = join()
    else:
        first = join()
        await first.said("connecting")
        clock.step(step_s)
        server = serve()
    # Both wait for the rest.
    await server.said("is in: 1 of 2")
    clock.step(step_s)
    second = crew.client("--name", "second", "--output", "copy")
    # In mid-transfer.
    server.write(image[: _SIZE // 2])
    await first.gave(1)
    clock.step(step_s)
    server.write(image[_SIZE // 2 : -_TAIL])
    await first.gave(_SIZE - _TAIL - _BUFFER)
    # All is sent, and one client has not written it.
    first.stop_reading()
    server.write(image[-_TAIL:])
    server.close_input()
    await server.said("verifying")
    clock.step(step_s)
    first.read_on()
    assert await ends(server, first, second) == [Status.OK] * 3, server.errors + first.errors
    assert bytes(first.output) == (crew.folder / "copy").read_bytes() == image
    report = _read(crew.folder / "server.json")
    own = _read(crew.folder / "first.json")
    for seconds in (report["seconds"], own["seconds"], *(c["seconds"] for c in report["clients"])):
        assert 0 < seconds < PATIENCE_S
    assert report["throughput_bytes_per_s"] > 0
    for program in (server, first):
        assert "-" not in program.lines[-1].replace("kollacast-", ""), program.lines[-1]


def _read(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    return report


class ReactorTests(SynchronousTestCase):
    """Twisted's own reactor, its seconds replaced."""

    def setUp(self) -> None:
        self.reactor: Any = EPollReactor()
        self.addCleanup(self.reactor.removeAll)
        self.now_s = 1e9
        self.reactor.seconds = lambda: self.now_s
        self.ran: list[str] = []

    def test_timers_that_are_set_keep_their_wait(self) -> None:
        self.reactor.callLater(0, self.ran.append, "due")
        self.reactor.callLater(5, self.ran.append, "later")
        self.reactor.timeout()  # takes them into its queue
        self.reactor.callLater(7, self.ran.append, "last")
        run_on_monotonic_clock(self.reactor)
        self.now_s += 3600
        self.reactor.runUntilCurrent()
        self.assertEqual(self.ran, ["due"])
        self.assertTrue(4 < self.reactor.timeout() <= 5)
        waits = sorted(
            call.getTime() - self.reactor.seconds() for call in self.reactor.getDelayedCalls()
        )
        self.assertApproximates(waits[1], 7, 1)

    def test_once_more_changes_nothing(self) -> None:
        run_on_monotonic_clock(self.reactor)
        call = self.reactor.callLater(5, self.ran.append, "later")
        due = call.getTime()
        run_on_monotonic_clock(self.reactor)
        self.assertApproximates(call.getTime(), due, 0.5)

    def test_loops(self) -> None:
        run_on_monotonic_clock(self.reactor)
        loop = task.LoopingCall(self.ran.append, "looked")
        loop.clock = self.reactor
        loop.start(60.0)
        self.now_s += 3600
        self.reactor.runUntilCurrent()
        self.assertEqual(self.ran, ["looked"])
        loop.stop()
