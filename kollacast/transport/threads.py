"""Starts a thread that never keeps the process from ending, or says why there can be none."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable


def start_thread(work: Callable[[], None], name: str) -> threading.Thread:
    """Start a daemon thread that does `work`. Raises OSError where the kernel has none to give."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(
            errno.EAGAIN,
            f"{error}: raise the limit of processes (ulimit -u, TasksMax=), or that of memory",
        ) from None
    return thread
