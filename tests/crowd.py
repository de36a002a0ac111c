"""Many twistd processes at little more than the price of one.

    python crowd.py FILE

FILE is JSON: a list of objects with the keys `argv` (what stands behind the word twistd), `output`
and `errors` (the files that standard output and standard error are redirected to). Each becomes a
process of its own, forked from this one once that has loaded all that twistd is going to load, and
runs twistd as the script of that name does. Prints their exit statuses as a JSON list, in order.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def main(path: str) -> None:
    jobs: list[dict[str, Any]] = json.loads(Path(path).read_text())
    _load()
    pids = []
    for job in jobs:
        pid = os.fork()
        if pid == 0:
            _become(job)
            return
        pids.append(pid)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(json.dumps(statuses))


def _load() -> None:
    """All but the reactor, which no two processes may share."""
    import twisted.internet.epollreactor  # noqa: F401
    from twisted.application.service import IServiceMaker
    from twisted.plugin import getPlugins
    from twisted.scripts import twistd  # noqa: F401

    import kollacast.client
    import kollacast.command.client  # noqa: F401

    list(getPlugins(IServiceMaker))
    assert "twisted.internet.reactor" not in sys.modules


def _become(job: dict[str, Any]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, where, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, job["output"], os.O_WRONLY | os.O_CREAT),
        (2, job["errors"], os.O_WRONLY | os.O_CREAT),
    ):
        fd = os.open(where, flags, 0o666)
        os.dup2(fd, number)
        os.close(fd)
    sys.argv = ["twistd", *job["argv"]]
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    main(sys.argv[1])
