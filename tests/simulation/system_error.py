"""What a system call fails with."""

from __future__ import annotations

import os


def system_error(number: int) -> OSError:
    """Of the class that Python has for this number: EAGAIN makes a BlockingIOError."""
    return OSError(number, os.strerror(number))
