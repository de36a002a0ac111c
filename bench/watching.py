"""Those who watch a distribution, for what that costs: a page, Prometheus, and a terminal.

    python -m bench.watching viewer URL REPORT
    python -m bench.watching terminal COMMAND...

A viewer waits for the server, takes the page's events as they come, and reads the metrics once a
second, until the server is gone. Its report, for JSON: "events", "bytes" of them but for the first,
which tells all, "seconds" between that and the last, "most_bytes" that one had, and "scrapes". A
terminal runs a command on a pseudo-terminal of 100 by 30, and throws away what is drawn there; it
ends as the command does.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import pty
import struct
import sys
import termios
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_RETRY_S = 0.05
_PATIENCE_S = 60.0
_SCRAPE_S = 1.0
_ROWS, _COLUMNS = 30, 100


class Viewer:
    """Counts what the server at `where`, as ``host:port``, sends to one who watches."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._is_over = threading.Event()
        self._sizes: list[int] = []
        self._began_s = self._ended_s = 0.0
        self._scrapes = 0

    def watch(self) -> dict[str, Any]:
        """Until the server is gone; the report. OSError where there is none."""
        stream = self._open()
        scraping = threading.Thread(target=self._scrape, daemon=True)
        scraping.start()
        try:
            self._read(stream)
        except (OSError, http.client.HTTPException):
            pass  # it is gone, which is the end
        self._is_over.set()
        scraping.join()
        return {
            "events": len(self._sizes),
            "bytes": sum(self._sizes[1:]),
            "seconds": round(self._ended_s - self._began_s, 3),
            "most_bytes": max(self._sizes[1:], default=0),
            "scrapes": self._scrapes,
        }

    def _open(self) -> http.client.HTTPResponse:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._get("/events")
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)

    def _get(self, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._where, timeout=_PATIENCE_S)
        connection.request("GET", path)
        return connection.getresponse()

    def _read(self, stream: http.client.HTTPResponse) -> None:
        size = 0
        while line := stream.readline():
            size += len(line)
            if line == b"\n":
                self._ended_s = time.monotonic()
                self._began_s = self._began_s or self._ended_s
                self._sizes.append(size)
                size = 0

    def _scrape(self) -> None:
        while not self._is_over.wait(_SCRAPE_S):
            try:
                self._get("/metrics").read()
            except (OSError, http.client.HTTPException):
                return
            self._scrapes += 1


def run_on_a_terminal(argv: Sequence[str]) -> int:
    """Run a command on a terminal of its own; its exit status, or minus the signal it died of."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], [*argv], {**os.environ, "TERM": "xterm"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # nobody has it open any more
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(words: Sequence[str]) -> int:
    """The exit status."""
    if words[0] == "terminal":
        return run_on_a_terminal(words[1:])
    url, report = words[1:]
    made = Viewer(urlsplit(url).netloc).watch()
    Path(report).write_text(json.dumps(made) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
