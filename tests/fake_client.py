"""twistd with the real command line, service, streams and log, and a client that only pretends.

Run as a script, with twistd's arguments. What the client does stands in its ``--name``.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python import log as legacy_log

import kollacast.client
from kollacast.command import service
from kollacast.files.sink import Sink
from kollacast.operator.config import ClientConfig
from kollacast.operator.outcome import Outcome, Progress, Status

_log = Logger(namespace="kollacast.fake")


class FakeClient:
    """Ends as it is told, or not at all."""

    def __init__(self, reactor: Any, config: ClientConfig, sink: Sink) -> None:
        self._reactor = reactor
        self._task = config.name
        self._sink = sink
        self._ending: Deferred[Outcome] = Deferred()

    def run(self) -> Deferred[Outcome]:
        task: Deferred[Outcome] = getattr(self, f"_{self._task}")()
        return task

    def progress(self, most_hosts: int = 0) -> Progress:
        return Progress(self._task, 0, None, 0, 0, 0)

    def interrupt(self, reason: str) -> Deferred[None]:
        if self._task != "deaf" and not self._ending.called:
            self._end(Status.FAILED, f"stopped: {reason}")
        return succeed(None)

    def _end(self, status: Status, line: str) -> None:
        self._ending.callback(Outcome(status, line, {"task": self._task}))

    def _soon(self, status: Status) -> Deferred[Outcome]:
        self._reactor.callLater(0, self._end, status, f"ended with {status.name}")
        return self._ending

    def _ok(self) -> Deferred[Outcome]:
        return self._soon(Status.OK)

    def _failed(self) -> Deferred[Outcome]:
        return self._soon(Status.FAILED)

    def _partial(self) -> Deferred[Outcome]:
        return self._soon(Status.PARTIAL)

    def _breaks(self) -> Deferred[Outcome]:
        return fail(ZeroDivisionError("division by zero"))

    def _image(self) -> Deferred[Outcome]:
        self._sink.write([memoryview(b"the "), memoryview(b"image")], 0)
        self._sink.commit()
        return self._soon(Status.OK)

    def _half(self) -> Deferred[Outcome]:
        self._sink.write([memoryview(b"the ")], 0)
        self._sink.abandon()
        return self._soon(Status.FAILED)

    def _noisy(self) -> Deferred[Outcome]:
        """Talk in every way a library may."""
        print("print")
        print("print on stderr", file=sys.stderr)
        os.write(1, b"descriptor 1\n")
        warnings.warn("deprecated", stacklevel=1)
        Logger(namespace="somebody.else").info("chatter")
        Logger(namespace="somebody.else").warn("warning")
        _log.debug("detail")
        _log.info("two\nlines\x1b[2J")
        legacy_log.msg("legacy chatter")
        legacy_log.err(ValueError("legacy trouble"), "while pretending")
        atexit.register(os.write, 2, b"exit handler\n")
        return self._soon(Status.FAILED)

    def _waits(self) -> Deferred[Outcome]:
        self._reactor.callLater(0, _log.info, "waiting")
        return self._ending

    def _deaf(self) -> Deferred[Outcome]:
        return self._waits()

    def _stuck(self) -> Deferred[Outcome]:
        """Leave a thread of the reactor's pool in a write that nobody takes."""

        def write() -> None:
            try:
                self._sink.write([memoryview(bytes(8 << 20))], 0)
            except OSError:
                pass

        self._reactor.callInThread(write)
        return self._waits()

    def _loose(self) -> Deferred[Outcome]:
        """Die by an exception in a thread of one's own, which nobody waits for."""
        thread = threading.Thread(target=lambda: 1 // 0)
        thread.start()
        thread.join()
        return self._soon(Status.FAILED)


if __name__ == "__main__":
    vars(kollacast.client)["Client"] = FakeClient
    vars(service)["INTERRUPT_S"] = 0.5
    from twisted.scripts.twistd import run

    sys.argv[0] = "twistd"
    run()
